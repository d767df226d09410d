"""The quickstart in small: every part of the promised way, with real parts, in seconds instead of minutes."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files

import pytest

from cocoa import Embedder, Index
from cocoa.data.scene_pairs import ScenePairs
from cocoa.errors import UsageError
from cocoa.quickstart import EXAMPLE, MARKER, SEARCHED_WITH, VARIANTS, run_quickstart
from cocoa.recipe import parse_recipe

SMALL = [f"stages.{stage}.{option}" for stage in ("warm-up", "bridge", "free-pairs", "contrastive") for option in
         ("steps=3", "batch_size=8", "warmup_steps=1")]  # fmt: skip

RECIPE = parse_recipe((files("cocoa") / "assets" / "quickstart.yaml").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick") / "start"
    return out, run_quickstart(out, changes=SMALL, num_test=12)


def test_the_results_have_all_variants_and_what_they_cost(done):
    out, results = done
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert list(results["variants"]) == ["contrastive_only", "cocoa", "cocoa_plus"]
    for variant in results["variants"].values():
        assert all(0 <= variant[key] <= 1 for key in ("classification", "vqa", "retrieval", "grounding", "overall"))
        assert variant["training_seconds"] > 0
    assert results["variants"]["cocoa"]["training_steps"] == 9
    assert results["variants"]["contrastive_only"]["training_steps"] == 3
    assert results["variants"]["cocoa_plus"]["training_steps"] == 6


def test_all_variants_see_the_same_labelled_pairs_and_cocoa_plus_no_more_others_than_the_papers(done):
    out, results = done
    labelled = {variant["labelled_pairs"] for variant in results["variants"].values()}
    assert labelled == {24}
    # In the recipe as it ships; here every stage is as short as it can be.
    stages = {stage.name: stage for stage in RECIPE.stages}
    assert set(VARIANTS["cocoa"]) | set(VARIANTS["cocoa_plus"]) == set(stages)
    seen = [
        sum(stages[name].steps * stages[name].batch_size for name in VARIANTS[variant] if name != "contrastive")
        for variant in ("cocoa", "cocoa_plus")
    ]
    assert seen[0] > seen[1] > 0
    first = json.loads((out / "runs" / "cocoa_plus" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["stage"] == "free-pairs" and set(first["losses"]) == {"contrastive"}


def test_the_model_and_the_index_open_and_answer(done):
    out, _ = done
    embedder = Embedder.load(out / SEARCHED_WITH)
    hits = Index.open(out / "index").search(embedder, ["a dog face"], k=3)[0]
    assert len(hits) == 3
    assert all((out / "pictures" / hit.id).is_file() for hit in hits)


def test_the_example_search_has_an_answer_among_the_pictures():
    scenes = ScenePairs(seed=8, num_pairs=200)
    assert EXAMPLE in [scenes[number].target.text for number in range(200)]


def test_the_report_shows_every_part(done):
    page = (done[0] / "report.html").read_text()
    for part in ("contrastive", "warm-up", "bridge", "CoCoA-plus", "<svg", "Pictures come back", "Words come back"):
        assert part in page
    assert "http://" not in page.replace("http://www.w3.org/", "")


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError) as caught:
        run_quickstart(tmp_path)
    assert caught.value.code == "E_USAGE_OUT"
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_killed_while_it_replaces_an_earlier_one_it_leaves_a_folder_that_is_still_its_own(tmp_path, monkeypatch):
    (tmp_path / MARKER).write_text("{}")
    (tmp_path / "data").mkdir()

    def killed(folder):
        # As it may be: what is removed first is the file that says whose folder this is.
        (folder / MARKER).unlink(missing_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_quickstart(tmp_path)
    assert (tmp_path / MARKER).is_file()
