"""What kills a decoder costs one picture: not its neighbours, and never the process that asked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

import bombs
from bad_inputs import of_kind
from cocoa.errors import ImageError, UsageError
from cocoa.images import ImageLimits, open_rgb
from cocoa.serving import decoding
from cocoa.serving.decoding import DecodePool
from making import make_picture
from picture_files import NOISE, encode

HOOKED = (sys.executable, "-P", str(Path(__file__).with_name("hooked_decoder.py")))
GOOD = encode(NOISE, "PNG")


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module")
def others() -> set[psutil.Process]:
    """The processes that other tests have started and that may end at any time."""
    return children()


@pytest.fixture(scope="module")
def pool(others: set[psutil.Process]) -> Iterator[DecodePool]:
    with DecodePool(2, program=HOOKED, cpu_seconds=2, deadline_seconds=60, memory_bytes=300_000_000) as pool:
        yield pool


def code(result: Image.Image | ImageError) -> str | None:
    return result.code if isinstance(result, ImageError) else None


def test_pictures_are_those_of_the_decoder_itself() -> None:
    sources = [encode(make_picture(20 + number % 50, 30, number), "PNG") for number in range(150)]
    sources += [case.make(Path()) for case in of_kind("image") if case.code is None]
    sources += [encode(make_picture(700, 600), "JPEG")]
    assert len(sources) >= 200
    before = children()
    with DecodePool(2) as pool:
        results = pool.decode(sources)
    for source, result in zip(sources, results, strict=True):
        expected = open_rgb(source)
        assert isinstance(result, Image.Image)
        assert np.array_equal(np.asarray(result), np.asarray(expected))
        assert result.info == expected.info
    assert not children() - before


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (b"die", "E_IMAGE_DECODER"),
        (b"abort", "E_IMAGE_DECODER"),
        (b"spin", "E_IMAGE_TIMEOUT"),
        (b"eat", "E_IMAGE_TOO_LARGE"),
    ],
)
def test_only_the_picture_that_kills_its_decoder_fails(
    pool: DecodePool, others: set[psutil.Process], hook: bytes, expected: str
) -> None:
    before = pool.num_replaced
    results = pool.decode([GOOD, hook, GOOD, GOOD])
    assert [code(result) for result in results] == [None, expected, None, None]
    assert pool.num_replaced - before == (hook != b"eat")
    assert len(children() - others) == 2


def test_a_decoder_that_hangs_is_killed_at_its_deadline() -> None:
    with DecodePool(1, program=HOOKED, deadline_seconds=1) as pool:
        assert [code(result) for result in pool.decode([GOOD, b"hang", GOOD])] == [None, "E_IMAGE_TIMEOUT", None]


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_decoder_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    before = children()
    with DecodePool(2, program=HOOKED) as pool:
        pool.decode([GOOD] * 4)
        results: list[Image.Image | ImageError] = []
        begun = tmp_path / "begun"
        thread = threading.Thread(target=lambda: results.extend(pool.decode([b"hang " + bytes(begun)])))
        thread.start()
        while not begun.exists():
            time.sleep(0.01)
        killed = children() - before
        for child in killed:
            os.kill(child.pid, signal.SIGKILL)
        thread.join()
        assert [code(result) for result in results] == ["E_IMAGE_DECODER"]
        # A killed process may live on for a moment on a busy machine.
        while not all(has_ended(child) for child in killed):
            time.sleep(0.01)
        # The idle one is dead too, which costs no picture.
        assert [code(result) for result in pool.decode([GOOD] * 4)] == [None] * 4


def test_signals_that_a_whole_server_is_sent_end_no_decoder() -> None:
    """A keyboard and systemd tell every process to stop; the server still wants the pictures of what it has begun."""
    before = children()
    with DecodePool(1, program=HOOKED) as pool:
        pool.decode([GOOD])
        for child in children() - before:
            child.send_signal(signal.SIGINT)
            child.send_signal(signal.SIGTERM)
        assert [code(result) for result in pool.decode([GOOD + b"slow"])] == [None]
        assert pool.num_replaced == 0


def test_a_bomb_that_its_header_does_not_give_away_meets_the_limit_of_memory() -> None:
    limits = ImageLimits(max_pixels=200_000_000, max_ratio=1e9)
    with DecodePool(1, limits, memory_bytes=100_000_000) as pool:
        results = pool.decode([GOOD, bombs.real_169_million(), GOOD])
        assert [code(result) for result in results] == [None, "E_IMAGE_TOO_LARGE", None]
        assert pool.num_replaced == 0


def test_the_bomb_is_refused_by_its_header_in_10_megabytes() -> None:
    with DecodePool(1, memory_bytes=10_000_000) as pool:
        (result,) = pool.decode([bombs.real_169_million()])
        assert isinstance(result, ImageError)
        assert "13000 x 13000" in result.message
        assert pool.num_replaced == 0


def test_bad_pictures_have_the_codes_of_the_decoder(pool: DecodePool) -> None:
    cases = [case for case in of_kind("image") if case.code is not None]
    for case, result in zip(cases, pool.decode([case.make(Path()) for case in cases]), strict=True):
        assert case.is_right(code(result)), case


def test_the_event_loop_goes_on_meanwhile(pool: DecodePool) -> None:
    async def main() -> tuple[list[Image.Image | ImageError], int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        heart = asyncio.create_task(beat())
        results = await pool.adecode([GOOD, b"spin", GOOD])
        heart.cancel()
        return results, beats

    results, beats = asyncio.run(main())
    assert [code(result) for result in results] == [None, "E_IMAGE_TIMEOUT", None]
    assert beats > 10


def test_a_picture_whose_answer_was_not_read_to_its_end_leaves_nothing_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large, real = encode(make_picture(300, 200), "PNG"), decoding._Worker._receive

    def scarce(worker: decoding._Worker, size: int, deadline: float) -> bytearray:
        if size == 300 * 200 * 3:
            raise MemoryError
        return real(worker, size, deadline)

    with DecodePool(1, program=HOOKED) as pool:
        with monkeypatch.context() as broken:
            broken.setattr(decoding._Worker, "_receive", scarce)
            with pytest.raises(MemoryError):
                pool.decode([large])
        [result] = pool.decode([GOOD])
        assert np.array_equal(np.asarray(result), np.asarray(open_rgb(GOOD)))
        assert pool.num_replaced == 1


def test_a_pool_that_can_start_no_process_says_so_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError("too many processes")

    with DecodePool(1, program=HOOKED) as pool:
        with monkeypatch.context() as broken:
            broken.setattr("subprocess.Popen", refuse)
            assert [code(result) for result in pool.decode([GOOD, b"die", GOOD])] == [None, *["E_IMAGE_DECODER"] * 2]
        assert [code(result) for result in pool.decode([GOOD])] == [None]


def test_what_has_not_begun_can_be_cancelled() -> None:
    async def main(pool: DecodePool) -> None:
        waiting = asyncio.create_task(pool.adecode([b"hang", *[GOOD] * 50]))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    with DecodePool(1, program=HOOKED, deadline_seconds=1) as pool:
        asyncio.run(main(pool))
        assert [code(result) for result in pool.decode([GOOD])] == [None]


def test_a_decoder_knows_no_secret_and_writes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COCOA_API_KEY", "secret")
    with DecodePool(1, program=HOOKED) as pool:
        (told,) = pool.decode([b"tell"])
        assert isinstance(told, ImageError)
        assert "COCOA_API_KEY" not in told.message
        assert told.message.endswith("False")  # torch is not loaded.
        pool.decode([b"write " + bytes(tmp_path / "file")])
        assert not (tmp_path / "file").exists() or (tmp_path / "file").read_bytes() == b""


def test_closing_leaves_no_process_and_answers_who_waits() -> None:
    before = children()
    pool = DecodePool(2, program=HOOKED)
    results: list[Image.Image | ImageError] = []
    thread = threading.Thread(target=lambda: results.extend(pool.decode([b"hang"] * 6)))
    thread.start()
    time.sleep(0.5)
    pool.close()
    thread.join()
    assert [code(result) for result in results] == ["E_IMAGE_DECODER"] * 6
    assert not children() - before
    with pytest.raises(UsageError, match="E_USAGE_CLOSED"):
        pool.decode([GOOD])
    pool.close()
