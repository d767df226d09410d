"""The published scores that reports compare with add up, and those that do not say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cocoa.data.mmeb_v1 import TASKS

PUBLISHED = json.loads((Path(__file__).parents[2] / "reference" / "mmeb_published.json").read_text())
MODELS: list[dict[str, Any]] = PUBLISHED["models"]
SIZES = {"classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4}


def test_the_rows_of_the_paper_are_there() -> None:
    rows = [row for row in MODELS if row["table"] == "main" and row["name"].startswith("CoCoA")]
    keys = (*SIZES, "ind", "ood", "overall")
    assert {row["size"]: [row[key] for key in keys] for row in rows} == {
        "2B": [0.63, 0.574, 0.696, 0.858, 0.702, 0.607, 0.66],
        "3B": [0.609, 0.635, 0.695, 0.882, 0.726, 0.612, 0.675],
        "7B": [0.647, 0.665, 0.725, 0.901, 0.757, 0.643, 0.706],
    }


@pytest.mark.parametrize("row", MODELS, ids=[f"{row['table']} {row['name']} {row['size']}" for row in MODELS])
def test_a_row_has_its_source_and_an_overall_that_follows(row: dict[str, Any]) -> None:
    assert row["source"]
    rates = [row[key] for key in (*SIZES, "ind", "ood", "overall")]
    assert all(rate is None or 0 <= rate <= 1 for rate in rates)
    assert row["overall"] is not None
    sums = []
    if row["ind"] is not None:
        sums.append((20 * row["ind"] + 16 * row["ood"]) / 36)
    if row["classification"] is not None:
        sums.append(sum(count * row[name] for name, count in SIZES.items()) / 36)
    # A published digit is rounded, and so are those that it is made of.
    odd = [value for value in sums if abs(value - row["overall"]) > 0.0011]
    assert not odd or row.get("note") or row["name"] == "CoCoA"


@pytest.mark.parametrize("name", PUBLISHED["tasks"])
def test_scores_of_single_tasks_are_of_all_36_and_give_the_means(name: str) -> None:
    entry = PUBLISHED["tasks"][name]
    rates = entry["hit_at_1"]
    assert list(rates) == list(TASKS)

    def mean(names: list[str]) -> float:
        return sum(rates[task] for task in names) / len(names)

    assert mean(list(TASKS)) == pytest.approx(entry["overall"], abs=0.0006)
    for split in ("ind", "ood"):
        assert mean([task for task in TASKS if TASKS[task].split == split]) == pytest.approx(entry[split], abs=0.0006)
    assert entry["source"] in PUBLISHED["sources"]
