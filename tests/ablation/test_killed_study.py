"""Killed at any place, a study goes on to the records of one that ran through; two processes never share its folder."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from studying import TEXT, write_study

from cocoa.ablation.job import Job
from cocoa.ablation.records import read_records
from cocoa.ablation.study import load_study
from cocoa.claims import Claims
from cocoa.errors import UsageError
from cocoa.failpoints import STUDY_FAILPOINTS
from forking import Processes

ZYGOTE = """
import json, os, sys, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
from cocoa.ablation import costs
from cocoa.ablation.job import Job
from cocoa.ablation.study import load_study
from cocoa.model import reading
import transformers.models.qwen2_vl.modeling_qwen2_vl
costs._count = lambda recipe: 1e6
reading.run_self_test = lambda *given: None
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(job["env"])
            path = Path(job["study"])
            Job(load_study(path), Path(job["out"]), folder=path.parent).run()
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(2 if getattr(error, "code", "") == "E_USAGE_BUSY" else 1)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""

SMALL = (
    TEXT.replace("workers: 0", "workers: 0, checkpoint_every: 1, keep_checkpoints: 1")
    .replace("seeds: [0, 1]", "seeds: [0]")
    .replace("trials: 2", "trials: 1")
    .replace("  - {name: long, set: [stages.contrastive.steps=3], equal: flops}\n", "")
    .replace("  - {name: mean, stages: [warm-up, contrastive], pooling: {kind: mean}}\n", "")
)
QUICK = ("file-written", "folder-doomed", "link-trained", "model-scored", "run-recorded")
"""Places of every kind, for the test that is run each time; the slow one has them all, more often."""


@pytest.fixture(scope="module")
def processes():
    started = Processes(ZYGOTE)
    yield started
    started.close()


@pytest.fixture(scope="module")
def whole(processes, tmp_path_factory):
    """The study's file, and the records of a run of it that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_study(folder, SMALL)
    processes.start(study=path, out=folder / "out")
    assert processes.wait() == 0
    return path, outcome(folder / "out")


def outcome(out: Path):
    """All that the records say but how long it took."""
    found = []
    for record in [*read_records(out), *read_records(out, "tuning")]:
        links = [{**link, "seconds": 0} for link in record["links"]]
        text = json.dumps({**record, "cost": {**record["cost"], "seconds": 0}, "links": links})
        found.append(text.replace(str(out.resolve()), "OUT"))
    return found


def killed(processes, path, out, place):
    """Goes on with the study until it comes to a place, `name:3` for the third time there; whether it died."""
    processes.start(study=path, out=out, env={"COCOA_FAILPOINT": place})
    status = processes.wait()
    assert status in (0, -signal.SIGKILL), place
    return status == -signal.SIGKILL


def check_goes_on(processes, path, out, expected):
    processes.start(study=path, out=out)
    assert processes.wait() == 0
    assert outcome(out) == expected
    assert not list(out.rglob(".*.draft")), "half-written files are swept"
    assert not list(out.glob("links/*/checkpoints")), "none outlives its link's training"


def test_killed_at_places_of_every_kind_it_goes_on_to_the_same(processes, whole, tmp_path):
    path, expected = whole
    # One folder for all of them: each kill finds what the one before has left.
    assert all(killed(processes, path, tmp_path / "out", f"{place}:1") for place in QUICK)
    check_goes_on(processes, path, tmp_path / "out", expected)


@pytest.mark.slow
@pytest.mark.parametrize("place", STUDY_FAILPOINTS)
def test_killed_at_each_place_again_and_again_it_goes_on_to_the_same(processes, whole, tmp_path, place):
    path, expected = whole
    times = [killed(processes, path, tmp_path / "out", f"{place}:{number}") for number in (1, 2, 4, 3)]
    assert sum(times) >= 2
    check_goes_on(processes, path, tmp_path / "out", expected)


def test_a_folder_that_another_process_works_in_is_refused_and_a_dead_ones_is_taken_over(processes, whole, tmp_path):
    path, _ = whole
    out = tmp_path / "out"
    first = processes.start(study=path, out=out)
    end = time.monotonic() + 60
    while not list(out.glob("links/*/metrics.jsonl")):
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another process is at work on this study") as caught:
        Job(load_study(path), out, folder=path.parent).run()
    assert caught.value.code == "E_USAGE_BUSY"
    assert processes.kill(first) == -signal.SIGKILL
    # Nobody has to remove anything: the next one is let in, and dies at its own place.
    assert killed(processes, path, out, "link-trained:1")


def test_who_ends_gives_the_folder_back(tmp_path):
    path = write_study(tmp_path, SMALL)
    job = Job(load_study(path), tmp_path / "out", folder=tmp_path, say=_stop)
    with pytest.raises(KeyboardInterrupt):
        job.run()
    with Claims(tmp_path / "out") as claims:
        assert claims.take("study")


def _stop(text):
    raise KeyboardInterrupt
