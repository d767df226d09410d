"""The quickstart in small: every part of the promised way, with real parts, in seconds instead of minutes."""

from __future__ import annotations

import json

import pytest

from cocoa import Embedder, Index
from cocoa.errors import UsageError
from cocoa.quickstart import run_quickstart

SMALL = [f"stages.{stage}.{option}" for stage in ("warm-up", "bridge", "contrastive") for option in
         ("steps=3", "batch_size=8", "warmup_steps=1")]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick") / "start"
    return out, run_quickstart(out, changes=SMALL, num_test=12)


def test_the_results_have_both_variants_and_what_they_cost(done):
    out, results = done
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(results))
    assert set(results["variants"]) == {"contrastive_only", "cocoa"}
    for variant in results["variants"].values():
        assert all(0 <= variant[key] <= 1 for key in ("classification", "vqa", "retrieval", "grounding", "overall"))
        assert variant["training_seconds"] > 0
    assert results["variants"]["cocoa"]["training_steps"] == 9
    assert results["variants"]["contrastive_only"]["training_steps"] == 3


def test_both_variants_see_the_same_labelled_pairs(done):
    _, results = done
    labelled = {variant["labelled_pairs"] for variant in results["variants"].values()}
    assert labelled == {24}


def test_the_model_and_the_index_open_and_answer(done):
    out, _ = done
    embedder = Embedder.load(out / "cocoa")
    hits = Index.open(out / "index").search(embedder, ["a dog face"], k=3)[0]
    assert len(hits) == 3
    assert all((out / "pictures" / hit.id).is_file() for hit in hits)


def test_the_report_shows_every_part(done):
    page = (done[0] / "report.html").read_text()
    for part in ("contrastive", "warm-up", "bridge", "<svg", "data:image", "Pictures come back", "Words come back"):
        assert part in page
    assert "http://" not in page.replace("http://www.w3.org/", "")


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError) as caught:
        run_quickstart(tmp_path)
    assert caught.value.code == "E_USAGE_OUT"
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
