"""Evaluation embeds each distinct content once, and scores as if every question had been asked alone."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bombs import many_strips
from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.errors import CocoaError, ImageError, ModelError, UsageError
from cocoa.evaluation.runner import evaluate
from cocoa.images import DEFAULT_LIMITS, ArchivedImage
from cocoa.model import EmbeddingModel
from cocoa.pooling import Pooling
from cocoa.sample import Question, Sample, Task

NAMES = ["scene_t2i_seen", "scene_grounding_seen", "scene_vqa_unseen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks") / "scenes"
    write_scene_tasks(folder, seed=0, num_train=12, num_test=12)
    return folder


@pytest.fixture(scope="module")
def tasks(folder):
    return read_tasks(folder, NAMES)


@pytest.fixture
def model(tiny):
    return EmbeddingModel(tiny(), max_tokens=256)


@pytest.fixture
def embedded(monkeypatch):
    """How often each content was embedded, since it was last cleared."""
    counts = Counter()
    real = EmbeddingModel.embed_all

    def counted(self, samples, **options):
        counts.update(sample.content_key for sample in samples)
        return real(self, samples, **options)

    monkeypatch.setattr(EmbeddingModel, "embed_all", counted)
    return counts


@pytest.fixture
def decoded(monkeypatch):
    """How many pictures were decoded."""
    from cocoa.backbones import qwen_vl

    calls = []
    real = qwen_vl.open_rgb
    monkeypatch.setattr(qwen_vl, "open_rgb", lambda source, *rest, **more: calls.append(source) or real(source))
    return calls


def ask(*questions, name="made"):
    """A task of questions, each a query and its candidates, right one first."""
    return Task(name, "retrieval", tuple(Question(query, tuple(others)) for query, *others in questions))


def answer_with(monkeypatch, value):
    def embed(self, samples, **_):
        return torch.full((len(samples), self.backbone.hidden_size), value)

    monkeypatch.setattr(EmbeddingModel, "embed_all", embed)


def test_the_scores_are_those_of_a_plain_loop_over_questions(model, tasks):
    result = evaluate(model, tasks, name="tiny")
    for task, score in zip(tasks, result.scores, strict=True):
        right = 0
        for question in task.questions:
            query = model.encode([question.query])[0]
            candidates = np.concatenate([model.encode([sample]) for sample in question.candidates])
            cosines = candidates.astype(np.float64) @ query.astype(np.float64)
            right += bool((cosines[0] > cosines[1:]).all())
        assert score.hit_at_1 == pytest.approx(right / len(task.questions))
        assert score.queries == len(task.questions)


def test_each_content_is_embedded_once_over_all_tasks_and_both_sides(model, folder, embedded):
    tasks = read_tasks(folder)
    result = evaluate(model, tasks, name="tiny")
    samples = [sample for task in tasks for one in task.questions for sample in (one.query, *one.candidates)]
    contents = {model.backbone.encode(sample).content_key for sample in {s.key: s for s in samples}.values()}
    assert set(embedded) == contents
    assert set(embedded.values()) == {1}
    assert result.receipt["samples_asked"] == len(samples) > 5 * len(contents)


def test_the_same_pixels_in_other_files_are_embedded_once(model, embedded, decoded, picture, tmp_path):
    shown = picture(60, 60)
    for name in ("one.png", "two.png", "three.webp", "four.bmp"):
        shown.save(tmp_path / name, lossless=True)
    (tmp_path / "two.png").write_bytes((tmp_path / "one.png").read_bytes())
    one, two, three, four = (
        Sample("see", (tmp_path / name,)) for name in ("one.png", "two.png", "three.webp", "four.bmp")
    )
    words = Sample("see")
    result = evaluate(model, [ask((one, three, words), (two, words, four)), ask((words, one), name="b")], name="tiny")
    assert sorted(embedded.values()) == [1, 1]
    # Equal bytes are known without decoding; only files that differ must be decoded to be known.
    assert len(decoded) == 3
    assert [score.ties for score in result.scores] == [0, 0]
    assert result.scores[0].ranks == (1, 2)


def test_pixels_that_are_equal_in_two_shards_are_embedded_once(model, embedded, picture, tmp_path, monkeypatch):
    monkeypatch.setattr("cocoa.evaluation.store._AHEAD", 0)
    names = ("one.png", "two.bmp", "three.webp")
    for name in names:
        picture(60, 60).save(tmp_path / name, lossless=True)
    samples = [Sample("see", (tmp_path / name,)) for name in names]
    result = evaluate(model, [ask((Sample("a"), *samples))], name="tiny", shard_size=1)
    assert sorted(embedded.values()) == [1, 1]
    # Not by luck of rounding: they have the one vector, so the tie is seen.
    assert result.scores[0].ranks == (3,)


def test_a_second_run_embeds_nothing_and_decodes_nothing(model, tasks, embedded, decoded, tmp_path):
    first = evaluate(model, tasks, name="tiny", cache=tmp_path / "cache", fingerprint="a")
    assert embedded
    assert decoded
    embedded.clear()
    decoded.clear()
    told = []
    second = evaluate(
        model, tasks, name="tiny", cache=tmp_path / "cache", fingerprint="a", on_progress=lambda now: told.append(now)
    )
    assert (embedded, decoded) == ({}, [])
    assert second.to_dict() == first.to_dict()
    assert second.receipt["samples_kept"] == second.receipt["samples_distinct"]


def test_another_model_or_setting_does_not_use_the_vectors(model, tiny, tasks, embedded, tmp_path):
    cache = tmp_path / "cache"

    def embeds(model, fingerprint):
        embedded.clear()
        evaluate(model, tasks[:1], name="tiny", cache=cache, fingerprint=fingerprint)
        return len(embedded)

    count = embeds(model, "a")
    assert count
    assert embeds(model, "b") == count
    assert embeds(EmbeddingModel(tiny().with_pixel_limits(None, 56 * 56), max_tokens=256), "a")
    assert embeds(EmbeddingModel(tiny(), max_tokens=200), "a")
    assert embeds(EmbeddingModel(tiny(), max_tokens=256, layout="causal"), "a")
    assert embeds(EmbeddingModel(tiny().double(), max_tokens=256), "a")
    assert embeds(EmbeddingModel(tiny(attention="eager"), max_tokens=256), "a")
    assert embeds(model, "a") == 0


def test_more_tasks_use_the_vectors_of_fewer(model, folder, tasks, embedded, tmp_path):
    evaluate(model, tasks, name="tiny", cache=tmp_path / "cache", fingerprint="a")
    known = set(embedded)
    embedded.clear()
    every = evaluate(model, read_tasks(folder), name="tiny", cache=tmp_path / "cache", fingerprint="a")
    assert embedded
    assert not known & set(embedded)
    fresh = evaluate(model, read_tasks(folder), name="tiny")
    assert [score.hit_at_1 for score in every.scores] == [score.hit_at_1 for score in fresh.scores]


def test_a_picture_that_has_changed_is_embedded_again(model, embedded, picture, tmp_path):
    picture(60, 60, 1).save(tmp_path / "a.png")
    task = ask((Sample("which"), Sample("", (tmp_path / "a.png",)), Sample("none")))
    options = {"name": "tiny", "cache": tmp_path / "cache", "fingerprint": "a"}
    evaluate(model, [task], **options)
    embedded.clear()
    picture(60, 60, 2).save(tmp_path / "a.png")
    evaluate(model, [task], **options)
    assert list(embedded.values()) == [1]


def test_a_cache_without_a_fingerprint_is_refused(model, tasks, tmp_path):
    with pytest.raises(UsageError, match="E_USAGE_CACHE"):
        evaluate(model, tasks, name="tiny", cache=tmp_path)


def test_a_shard_that_was_damaged_is_named_not_used(model, tasks, tmp_path):
    cache = tmp_path / "cache"
    evaluate(model, tasks[:1], name="tiny", cache=cache, fingerprint="a")
    [file] = cache.glob("vectors/*/*/vectors.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(CocoaError, match="remove it to compute it again") as caught:
        evaluate(model, tasks[:1], name="tiny", cache=cache, fingerprint="a")
    assert caught.value.where == str(file.parent)


def test_pictures_that_cannot_be_read_are_named_all_at_once_before_anything_is_embedded(
    model, embedded, picture, tmp_path
):
    picture(60, 60).save(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    names = ("good.png", "text.png", "empty.png", "absent.png")
    samples = [Sample("", (tmp_path / name,), f"table.parquet:{row}") for row, name in enumerate(names, 1)]
    with pytest.raises(CocoaError) as caught:
        evaluate(model, [ask((Sample("q"), *samples))], name="tiny")
    for row, name in list(enumerate(names, 1))[1:]:
        assert f"table.parquet:{row}" in str(caught.value)
        assert name in str(caught.value)
    assert not embedded


@pytest.mark.parametrize("kind", ["member", "strips"])
def test_a_picture_that_would_fill_the_memory_is_refused_unread(model, tmp_path, monkeypatch, kind):
    if kind == "member":
        with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("0.png", bytes(DEFAULT_LIMITS.max_bytes + 1))
        source = ArchivedImage(tmp_path / "images.zip", "0.png")
    else:
        source = tmp_path / "0.tif"
        source.write_bytes(many_strips(30_000))
    touched = []
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *given, **more: touched.append("read"))
    monkeypatch.setattr(Image, "open", lambda *given, **more: touched.append("opened"))
    task = ask((Sample("q"), Sample("", (source,), "table.parquet:3"), Sample("other")))
    with pytest.raises(ImageError, match=r"image '.*0\..*\[E_IMAGE_TOO_LARGE\]") as caught:
        evaluate(model, [task], name="tiny")
    assert (caught.value.where, touched) == ("table.parquet:3", [])


def test_a_picture_that_is_cut_short_fails_with_its_file_and_row(model, picture, tmp_path):
    picture(200, 200).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:20_000])
    task = ask((Sample("q"), Sample("", (tmp_path / "cut.png",), "table.parquet:7"), Sample("other")))
    with pytest.raises(ImageError, match="cut short") as caught:
        evaluate(model, [task], name="tiny")
    assert caught.value.where == "table.parquet:7"


def test_a_picture_with_more_tokens_than_fit_fails_with_its_row(tiny, picture):
    model = EmbeddingModel(tiny(), max_tokens=4)
    task = ask((Sample("q"), Sample("", (picture(80, 80),), "table.parquet:3"), Sample("other")))
    with pytest.raises(CocoaError, match="E_DATA_TOO_LONG") as caught:
        evaluate(model, [task], name="tiny")
    assert caught.value.where == "table.parquet:3"


def test_pictures_that_leave_no_room_for_all_bridge_tokens_are_named_all_at_once(tiny, picture):
    backbone, places = tiny(), ("table.parquet:3", "table.parquet:4")
    first, second = (Sample("", (picture(80, 80, seed),), where) for seed, where in enumerate(places))
    model = EmbeddingModel(backbone, max_tokens=len(backbone.encode(first)) + 1, pooling=Pooling(tokens=2))
    with pytest.raises(CocoaError, match="E_DATA_TOO_LONG") as caught:
        evaluate(model, [ask((Sample("q"), first, second))], name="tiny")
    assert all(place in str(caught.value) for place in places)


def test_a_sample_with_nothing_in_it_is_refused(model):
    with pytest.raises(CocoaError, match="E_DATA_EMPTY"):
        evaluate(model, [ask((Sample("q"), Sample(where="table:1")))], name="tiny")


def test_a_model_that_answers_all_the_same_scores_nothing(model, tasks, monkeypatch):
    answer_with(monkeypatch, 1.0)
    result = evaluate(model, tasks, name="constant")
    assert all(score.hit_at_1 == 0 for score in result.scores)
    assert all(score.official_hit_at_1 == 1 for score in result.scores)


def test_one_vector_that_is_not_finite_refuses_and_names_the_sample(model, monkeypatch, tmp_path):
    real = EmbeddingModel.embed_all

    def broken(self, samples, **options):
        vectors = real(self, samples, **options)
        vectors[[sample.where == "table:5" for sample in samples]] = torch.nan
        return vectors

    monkeypatch.setattr(EmbeddingModel, "embed_all", broken)
    candidates = [Sample(f"text {row}", where=f"table:{row}") for row in range(9)]
    with pytest.raises(ModelError, match="not finite") as caught:
        evaluate(model, [ask((Sample("q"), *candidates))], name="nan", cache=tmp_path, fingerprint="a")
    assert caught.value.where == "table:5"
    assert not list(tmp_path.glob("vectors/*/*/facts.json"))


def test_a_zero_vector_is_refused(model, tasks, monkeypatch):
    answer_with(monkeypatch, 0.0)
    with pytest.raises(ModelError, match="is zero") as caught:
        evaluate(model, tasks, name="zero")
    assert caught.value.where


def test_progress_ends_with_all_samples_and_tasks(model, tasks):
    told, pictures = [], []
    evaluate(
        model,
        tasks,
        name="tiny",
        on_progress=told.append,
        on_pictures=lambda done, total: pictures.append((done, total)),
    )
    assert pictures[-1][0] == pictures[-1][1] > 0
    last = told[-1]
    assert (last.done, last.tokens_done, last.tasks_ready) == (last.samples, last.tokens, last.tasks)
    assert last.tasks == 3
    assert last.rate > 0
    assert last.seconds_left == 0


def test_examples_show_what_was_right_and_what_was_ranked_first(model, tasks):
    result = evaluate(model, tasks, name="tiny", examples=True)
    for task, score, shown in zip(tasks, result.scores, result.examples, strict=True):
        assert shown.name == task.name
        assert len(shown.hits) == min(10, sum(rank == 1 for rank in score.ranks))
        assert len(shown.misses) == min(10, sum(rank > 1 for rank in score.ranks))
        for hit in shown.hits:
            assert hit.first is hit.right
        for miss in shown.misses:
            assert miss.first is not miss.right
            assert miss.first_score >= miss.right_score
            assert miss.rank > 1


def test_results_hold_every_figure_of_a_task(model, tasks):
    content = evaluate(model, tasks, name="tiny").to_dict()
    json.dumps(content, allow_nan=False)
    assert set(content) == {"model", "tasks", "summary", "complete", "missing"}
    figures = {"hit_at_1", "official_hit_at_1", "hit_at_5", "hit_at_10", "mrr", "ndcg_at_10", "ci95", "queries"}
    for task in tasks:
        entry = content["tasks"][task.name]
        assert figures | {"meta_task", "candidates", "ties", "chance", "blind", "split"} <= set(entry)
        assert entry["hit_at_1"] <= entry["hit_at_5"] <= entry["hit_at_10"]
        assert not {"ranks", "official_ranks"} & set(entry)
    assert content["complete"] is True
    assert set(content["summary"]) == {"retrieval", "grounding", "vqa", "overall"}


def test_the_receipt_tells_whether_two_results_are_of_the_same_questions(model, tiny, picture, tmp_path):
    def asked(*questions, model=model):
        return evaluate(model, [ask(*questions)], name="tiny").receipt["tasks"]["made"]

    picture(60, 60, 1).save(tmp_path / "a.png")
    query, seen, owl, dog = Sample("q"), Sample("", (tmp_path / "a.png",)), Sample("owl"), Sample("dog")
    questions = ((query, seen, owl), (dog, owl, seen, dog, query))
    first = asked(*questions)
    assert first["candidates"] == {"min": 2, "median": 3.0, "max": 4}
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    copied = Sample("", (tmp_path / "b.png",), "elsewhere:1")
    other = EmbeddingModel(tiny(), max_tokens=200, layout="causal")
    assert asked((query, copied, owl), (dog, owl, copied, dog, query), model=other) == first
    picture(60, 60, 2).save(tmp_path / "b.png")
    for changed in (
        ((query, copied, owl), questions[1]),
        ((query, owl, seen), questions[1]),
        ((query, seen, owl, dog), (owl, seen, dog, query)),
        questions[::-1],
        questions[:1],
    ):
        assert asked(*changed)["sha256"] != first["sha256"]


def test_some_tasks_of_mmeb_are_no_complete_set(model, tasks):
    named = [
        replace(task, name=name, split="ood") for task, name in zip(tasks, ("EDIS", "RefCOCO", "GQA"), strict=True)
    ]
    content = evaluate(model, named, name="tiny").to_dict()
    assert (content["summary"], content["complete"], len(content["missing"])) == ({}, False, 33)


def test_a_part_of_the_tasks_has_no_mean_over_all(model, tasks):
    assert evaluate(model, tasks, name="tiny", complete=False).to_dict()["summary"] == {}


def test_pictures_that_are_open_already_can_be_scored(model, picture, embedded):
    shown = picture(60, 60)
    task = ask((Sample("a", (shown,)), Sample("", (shown,)), Sample("", (Image.new("RGB", (60, 60)),))))
    assert evaluate(model, [task], name="tiny").scores[0].queries == 1
    assert sorted(embedded.values()) == [1, 1, 1]
