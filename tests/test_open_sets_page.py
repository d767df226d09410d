"""The page of results on the open sets: its numbers are those of the runs, and one seed is not sold as several."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from cocoa.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("open_sets_page", ROOT / "scripts" / "open_sets_page.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def scores(rate, official=None):
    known = {"meta_task": "vqa", "queries": 10, "chance": 0.1, "blind": 0.2}
    rates = {"hit_at_1": rate, "expected_hit_at_1": rate + 0.01, "official_hit_at_1": official or rate}
    summary = dict.fromkeys(("classification", "vqa", "retrieval", "grounding", "overall"), rate)
    return {"tasks": {"colours": known | rates}, "summary": summary}


def write(pages, before, after):
    runs = {
        name: [pages.Run(scores(rate), steps=5, seconds=2.0) for rate in rates]
        for name, rates in zip(pages.VARIANTS, (before, after), strict=True)
    }
    trivial = {name: scores(0.0, official=1.0) for name in pages.TRIVIAL}
    recipe = load_recipe(ROOT / "recipes" / "open-sets.yaml")
    return pages.page(recipe, range(len(before)), runs, trivial)


def test_means_and_spread_are_those_of_the_seeds(pages):
    page = write(pages, [0.2, 0.4], [0.5, 0.7])
    assert "| colours | vqa | 10 | 10.0 | 20.0 | 30.0 ± 14.1 | 60.0 ± 14.1 | +30.0 ± 0.0 |" in page
    assert "**Overall `cocoa` is +30.0 points from `contrastive_only` over 2 seeds (better in 2), 95 %" in page
    assert "+30.0 to +30.0.**" in page


def test_a_difference_within_its_error_is_called_none(pages):
    assert "no difference is shown" in write(pages, [0.2, 0.4], [0.5, 0.2])
    # Mean -0.5 of three, two standard errors 0.35, but Student's half-width 0.76.
    page = write(pages, [0.2, 0.2, 0.2], [0.196, 0.198, 0.191])
    assert "-0.5 points from `contrastive_only` over 3 seeds (better in 0)" in page
    assert "-1.4 to +0.4: no difference is shown" in page


def test_one_seed_says_so(pages):
    page = write(pages, [0.2], [0.5])
    assert "One seed only: 0." in page and "too few to say anything" in page and "±" not in page.split("## Every")[1]


def test_models_that_learned_nothing_stand_beside_what_the_sets_say(pages):
    page = write(pages, [0.2], [0.5])
    assert re.search(r"\| colours \| 10.0 \| 20.0 \| 0.0 \(1.0\) \| 0.0 \(1.0\) \| 0.0 \(1.0\) \| 100.0 \|", page)
    assert "the largest difference to our count is 19.0 points, in colours" in page
