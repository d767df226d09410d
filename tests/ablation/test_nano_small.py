"""The study that `make study` runs, from its file to its tables: minutes, and no evidence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cocoa.ablation.records import read_records
from cocoa.cli import app

STUDY = Path(__file__).resolve().parents[2] / "studies" / "nano-small.yaml"


@pytest.mark.slow
def test_the_small_study_runs_from_end_to_end_and_writes_its_tables(tmp_path):
    arguments = ["ablate", str(STUDY), "--out", str(tmp_path / "out"), "--keep", str(tmp_path / "kept")]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert "12 records kept in" in answer.output
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert result["complete"]
    [budget] = result["budgets"]
    assert [arm["arm"] for arm in budget["arms"]] == ["contrastive-only", "paper", "light-decoder", "free-pairs"]
    for arm in budget["arms"]:
        assert len(arm["scores"]) == 3 and len(set(arm["scores"])) > 1, "seeds differ"
        assert {"bridge_true", "bridge_shuffled", "reads_things"} <= arm["probes"].keys()
        assert len(arm["layers"]) > 1 and {"hit_at_1", "content_to_e"} <= arm["layers"][0].keys()
    page = (tmp_path / "out" / "results.md").read_text()
    assert "12 of 12 runs" in page and "nothing here is a result yet" not in page
    assert "| light-decoder | 3 |" in page and "hit@1 by layer" in page
    assert len(read_records(tmp_path / "kept" / "nano-small")) == 12
    # Every stage of an arm is trained once a seed; here no two arms begin alike.
    links = {link["link"] for record in read_records(tmp_path / "out") for link in record["links"]}
    assert len(links) == 3 * 8
