"""The TensorBoard files hold every number of every step once, also after a resumption."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from cocoa.errors import UsageError
from cocoa.training import board
from cocoa.training.board import Board


def record(step: int, stage: str = "warm-up") -> dict[str, Any]:
    return {"step": step, "stage": stage, "losses": {"masked_text": 4.0 / (step + 1)}, "pad_rate": 0.25, "seconds": 2.0}


def write(run: Path, records: list[dict[str, Any]], to: Board | None = None) -> None:
    """Adds records to the run's log, and to a board if there is one."""
    run.mkdir(exist_ok=True)
    for each in records:
        with (run / "metrics.jsonl").open("a") as log:
            log.write(json.dumps(each) + "\n")
        if to is not None:
            to.add(each)


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads every event file: (step, value) of each name."""
    found = defaultdict(list)
    for path in sorted((run / "tensorboard").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            for value in event.summary.value:
                found[value.tag].append((event.step, value.simple_value))
            place += 12 + length + 4
    return dict(found)


def test_every_number_of_a_record_is_on_the_board_over_the_steps_of_the_run(tmp_path: Path) -> None:
    with Board(tmp_path) as made:
        write(tmp_path, [record(0), record(1), record(0, "bridge")], made)
    assert events(tmp_path) == {
        "loss/warm-up/masked_text": [(0, 4.0), (1, 2.0)],
        "loss/bridge/masked_text": [(2, 4.0)],
        "run/pad_rate": [(0, 0.25), (1, 0.25), (2, 0.25)],
        "run/seconds": [(0, 2.0), (1, 2.0), (2, 2.0)],
    }


def test_a_resumed_run_has_no_step_twice_and_none_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Board(tmp_path) as before:
        write(tmp_path, [record(step) for step in range(5)], before)
        raise KeyboardInterrupt
    assert len(events(tmp_path)["run/seconds"]) == 5
    # The checkpoint was of step 3: the last two come again.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(lines[:3]))
    with Board(tmp_path) as after:
        write(tmp_path, [record(3), record(4)], after)
    assert [step for step, _ in events(tmp_path)["loss/warm-up/masked_text"]] == [0, 1, 2, 3, 4]


def test_a_board_that_saw_no_step_shows_those_of_the_log(tmp_path: Path) -> None:
    write(tmp_path, [record(0), record(1)])
    with Board(tmp_path):
        pass
    assert [step for step, _ in events(tmp_path)["run/seconds"]] == [0, 1]


def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install") as error:
        Board(tmp_path)
    assert error.value.code == "E_USAGE_TENSORBOARD"


def test_a_run_that_fails_before_its_first_step_leaves_no_board(tmp_path: Path) -> None:
    with pytest.raises(UsageError), Board(tmp_path):
        raise UsageError("E_USAGE_OUT", "folder is not empty")
    assert not list(tmp_path.iterdir())
