"""Whatever is wrong with bytes from outside: they are read, or refused by an error of this package that says where.

COCOA_FUZZ_TRIES and COCOA_FUZZ_SEED ask for more or other ones; COCOA_FUZZ_KEEP is a folder for what went wrong.
"""

from __future__ import annotations

import gc
import os
import random
import resource
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from cocoa.errors import CocoaError
from fuzzed_readers import FUZZED, Fuzzed
from mutating import mutated, mutated_json

TRIES = int(os.environ.get("COCOA_FUZZ_TRIES", "60"))
"""Of each reader, before its share."""
SEED = int(os.environ.get("COCOA_FUZZ_SEED", "7"))
SECONDS = 10
MEMORY = 1_000_000
"""KB that reading may add to the most that this process has held."""


class TooSlowError(BaseException):
    """No reader catches it."""


@contextmanager
def alarm() -> Iterator[None]:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    # A finaliser that comes at the bottom of a nested text has no stack left, and is of something else.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def broken(case: Fuzzed, folder: Path, tries: int, seed: int) -> tuple[list[str], set[str]]:
    """Returns what went wrong, each kind once with its number, and the codes that were met."""
    path = folder / case.name
    case.set_up(folder)
    whole = case.valid or (path.read_bytes(),)
    path.unlink(missing_ok=True)
    for valid in whole:
        path.write_bytes(valid)
        case.read(path)
    wrong: dict[str, str] = {}
    codes = set()
    for number in range(tries):
        rng = random.Random(f"{seed}/{case}/{number}")
        valid = rng.choice(whole)
        data = mutated_json(rng, valid) if case.is_json and rng.random() < 0.6 else mutated(rng, valid)
        path.write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = None
        try:
            with alarm(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case.read(path)
        except CocoaError as error:
            codes.add(error.code)
            if not error.code.startswith("E_") or not (case.lone or error.where or str(folder) in error.message):
                said = f"no place: {error}"
        except TooSlowError:
            said = "too slow"
        except Exception as error:
            said = f"{type(error).__module__}.{type(error).__qualname__}: {str(error)[:200]}"
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MEMORY:
            said = f"too much memory; {said}"
        if said is not None:
            key = said.partition(":")[0]
            if key not in wrong:
                wrong[key] = f"try {number}: {said}"
                if keep := os.environ.get("COCOA_FUZZ_KEEP"):
                    (Path(keep) / f"{case}-{seed}-{number}").write_bytes(data)
    return list(wrong.values()), codes


@pytest.mark.slow
@pytest.mark.parametrize("case", FUZZED, ids=str)
def test_many_mutated_bytes_are_read_or_refused_with_a_place(case: Fuzzed, tmp_path: Path) -> None:
    wrong, _ = broken(case, tmp_path, max(100, round(3_000 * case.share)), SEED + 1)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", FUZZED, ids=str)
def test_mutated_bytes_are_read_or_refused_with_a_place(case: Fuzzed, tmp_path: Path) -> None:
    wrong, codes = broken(case, tmp_path, max(3, round(TRIES * case.share)), SEED)
    assert not wrong, "\n".join(wrong)
    assert codes
