"""Models on the hub: fetched and pushed by its own client, which these tests put a folder in the place of."""

from __future__ import annotations

import huggingface_hub
import numpy as np
import pytest
from typer.testing import CliRunner

from cocoa import CocoaError, Embedder
from cocoa.cli import app
from cocoa.corpus.job import embed_corpus
from cocoa.corpus.work import Work, take_part
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.model import local_folder, push
from cocoa.serving.keys import ApiKeys
from cocoa.serving.server import open_app
from cocoa.serving.settings import ServeSettings


def test_a_model_of_the_hub_is_fetched_without_code_and_pickles_and_then_a_folder_like_any(saved, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    embedder = Embedder.load("somebody/owls", revision="v2")
    [(name, revision, patterns)] = asked
    assert (name, revision) == ("somebody/owls", "v2")
    assert {"*.safetensors", "*.json"} <= set(patterns)
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in patterns)
    assert embedder.folder == saved
    np.testing.assert_array_equal(embedder.encode(["an owl"]), Embedder.load(saved).encode(["an owl"]))


def test_a_name_may_say_which_revision(saved, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, *, revision, **_: asked.append((name, revision)) or str(saved),
    )
    assert local_folder("somebody/owls@v2") == saved
    assert local_folder("somebody/owls") == saved
    assert asked == [("somebody/owls", "v2"), ("somebody/owls", None)]


@pytest.mark.parametrize(
    ("name", "revision"), [("somebody/owls@", None), ("owls@v2", None), ("somebody/owls@v2", "v3")]
)
def test_a_name_that_says_no_revision_or_two_is_refused(name, revision):
    with pytest.raises(CocoaError) as caught:
        local_folder(name, revision=revision)
    assert caught.value.code == "E_MODEL_MISSING"


def test_a_folder_with_an_at_in_its_name_is_a_folder(saved, tmp_path):
    (tmp_path / "a@b").symlink_to(saved)
    assert local_folder(tmp_path / "a@b") == tmp_path / "a@b"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tasks"
    write_scene_tasks(folder, seed=0, num_train=12, num_test=12, num_things=32)
    return folder


@pytest.fixture
def owls(saved, monkeypatch):
    """The hub has one model."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: {"somebody/owls": str(saved)}[name])
    return "somebody/owls"


@pytest.mark.parametrize(
    ("words", "made"),
    [
        ("verify MODEL --json OUT/found.json", "found.json"),
        ("evaluate MODEL --tasks TASKS --only scene_t2i_seen --out OUT", "cache/vectors/*/*/vectors.safetensors"),
        ("probe MODEL --tasks TASKS --json OUT/probes.json", "probes.json"),
        ("mine MODEL TASKS/train/scene_t2i.parquet --out OUT --negatives 1", "train/scene_t2i.parquet"),
        ("embed MODEL ROWS --out OUT", "shards/*/vectors.parquet"),
    ],
)
def test_every_command_takes_a_model_of_the_hub_and_does_as_with_its_folder(words, made, owls, saved, tasks, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "text": "an owl"}\n{"id": "b", "text": "a cat"}\n')
    found = []
    for model, out in ((owls, tmp_path / "hub"), (str(saved), tmp_path / "folder")):
        places = {"MODEL": model, "TASKS": str(tasks), "ROWS": str(rows), "OUT": str(out)}
        given = words
        for name, place in places.items():
            given = given.replace(name, place)
        answer = CliRunner().invoke(app, given.split())
        assert answer.exit_code == 0, answer.output
        [path] = out.glob(made)
        found.append(path.read_bytes())
    assert found[0] == found[1]


def test_what_was_embedded_is_searched_by_the_name_that_opens_the_model_again(owls, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "text": "an owl"}\n')
    made = embed_corpus(owls, rows, tmp_path / "vectors")
    assert made.model == owls
    with pytest.raises(CocoaError, match="not the model of the job") as caught:
        take_part(Work("nano-embedder", tmp_path / "vectors", 1, None), Embedder.load("nano-embedder"))
    assert caught.value.code == "E_MODEL_OTHER"
    answer = CliRunner().invoke(app, ["search", str(tmp_path / "vectors"), "--text", "an owl", "--json"])
    assert answer.exit_code == 0 and '"a"' in answer.output


def test_a_server_calls_a_model_of_the_hub_by_its_name_there(owls):
    served = open_app([(owls, None), (owls, None)], ServeSettings(model_name="first"), ApiKeys()).state.service
    assert list(served.models) == ["first", "owls"]


def test_what_is_on_no_disk_and_not_on_the_hub_is_said_so(monkeypatch):
    def snapshot_download(*args, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand much more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CocoaError) as caught:
        Embedder.load("somebody/owls")
    assert caught.value.code == "E_MODEL_MISSING"
    assert "no network" in caught.value.message
    assert "much more" not in caught.value.message


@pytest.mark.parametrize("name", ["no-such-folder", "runs/a/model", "./a/b", "../b", "/no/where", "a/b/", ""])
def test_a_path_that_cannot_be_a_name_on_the_hub_is_never_asked_for_there(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(CocoaError) as caught:
        Embedder.load(name or "no/such/folder")
    assert caught.value.code == "E_MODEL_MISSING"


class Hub:
    """Stands for the hub's client and remembers what was asked of it."""

    calls: list[tuple[str, tuple, dict]]

    def __init__(self) -> None:
        self.calls = []

    def __call__(self) -> Hub:
        return self

    def create_repo(self, *args, **options) -> None:
        self.calls.append(("create_repo", args, options))

    def upload_folder(self, *args, **options) -> None:
        self.calls.append(("upload_folder", args, options))


def test_a_push_makes_a_private_model_and_uploads_the_folder(saved, monkeypatch):
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    assert push(saved, "me/owls") == "https://huggingface.co/me/owls"
    (made, (name,), options), (sent, _, sent_options) = hub.calls
    assert (made, name, sent) == ("create_repo", "me/owls", "upload_folder")
    assert options["private"] is True
    assert options["exist_ok"] is True
    assert (sent_options["folder_path"], sent_options["repo_id"]) == (saved, "me/owls")
    push(saved, "me/owls", public=True)
    assert hub.calls[2][2]["private"] is False


def test_a_push_that_fails_says_why(saved, monkeypatch):
    class Closed(Hub):
        def create_repo(self, *args, **options):
            raise OSError("401 who are you")

    monkeypatch.setattr(huggingface_hub, "HfApi", Closed())
    with pytest.raises(CocoaError) as caught:
        push(saved, "me/owls")
    assert caught.value.code == "E_MODEL_HUB"
    assert "401" in caught.value.message
    with pytest.raises(CocoaError) as caught:
        push(saved, "owls")
    assert caught.value.code == "E_MODEL_HUB"
