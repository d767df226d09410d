"""Requests name files inside the configured folders, and no others, whatever they spell and whatever is swapped."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cocoa.errors import ImageError, UsageError
from cocoa.serving.roots import Roots


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A root with files inside and secrets around it."""
    root = tmp_path / "root"
    (root / "cats" / "old").mkdir(parents=True)
    (root / "a.png").write_bytes(b"a")
    (root / "cats" / "b c.png").write_bytes(b"bc")
    (root / "cats" / "old" / "d.png").write_bytes(b"d")
    (root / "..dots.png").write_bytes(b"dots")
    (root / "%2e%2e").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "secret").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret")
    (root / "inner-link.png").symlink_to(root / "a.png")
    (root / "folder-link").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    (root / "device").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.png")
    (root / "proc").symlink_to("/proc/self")
    return root


GOOD = {
    "a.png": b"a",
    "./a.png": b"a",
    "cats/b c.png": b"bc",
    "cats//old/./d.png": b"d",
    "..dots.png": b"dots",
    "{root}/a.png": b"a",
    "{root}/cats/old/d.png": b"d",
}
BAD = (
    "", ".", "/", "cats", "cats/", "missing.png", "a.png/b.png", "..", "../secret", "cats/../../secret",
    "cats/../a.png", "{root}/../secret", "{root}", "{root}-too/secret", "/etc/passwd", "//etc/passwd",
    "/proc/self/environ", "proc/environ", "/dev/zero", "device", "/dev/stdin", "pipe.png", "{root}/pipe.png",
    "link.png", "inner-link.png", "folder-link/secret", "folder-link/root/a.png", "loop", "a.png\0", "a.png\0.jpg",
    "%2e%2e/secret", "..\\secret", "~/a.png", "file:///etc/passwd", "a" * 300, "b/" * 3000, "\udcff.png",
    "\u2025/secret", " a.png",
)  # fmt: skip


@pytest.mark.parametrize("reference", GOOD)
def test_files_inside_are_read(folder: Path, reference: str) -> None:
    assert Roots([folder]).read(reference.format(root=folder), 10) == GOOD[reference]


@pytest.mark.parametrize("reference", BAD, ids=range(len(BAD)))
def test_nothing_else_is(folder: Path, reference: str) -> None:
    start = time.monotonic()
    with pytest.raises(ImageError, match="no such picture") as caught:
        Roots([folder]).read(reference.format(root=folder), 10, where="request 1")
    assert time.monotonic() - start < 5.0
    assert caught.value.code == "E_IMAGE_MISSING"
    assert str(folder) not in str(caught.value)


def test_limits_hold_at_the_edge(folder: Path) -> None:
    (folder / "ten.png").write_bytes(bytes(10))
    assert len(Roots([folder]).read("ten.png", 11)) == len(Roots([folder]).read("ten.png", 10)) == 10
    with pytest.raises(ImageError, match="E_IMAGE_TOO_LARGE"):
        Roots([folder]).read("ten.png", 9)


def test_several_folders_are_looked_through_in_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "root-too" / "a.png").write_bytes(b"second")
    roots = Roots([folder, tmp_path / "root-too"])
    assert roots.read("a.png", 10) == b"a"
    assert roots.read("secret", 10) == b"secret"
    assert roots.read(tmp_path / "root-too" / "a.png", 10) == b"second"
    with pytest.raises(ImageError):
        Roots([]).read("a.png", 10)
    with pytest.raises(UsageError, match="E_USAGE_ROOT"):
        Roots([tmp_path / "no-such-folder"])


def test_a_link_swapped_in_meanwhile_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    """A folder on the way turns into a link to outside and back, as fast as it can."""
    (tmp_path / "old-outside").mkdir()
    (tmp_path / "old-outside" / "d.png").write_bytes(b"secret")
    way, aside = folder / "cats" / "old", folder / "cats" / "aside"
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            way.rename(aside)
            way.symlink_to(tmp_path / "old-outside")
            way.unlink()
            aside.rename(way)

    thread = threading.Thread(target=swap)
    thread.start()
    roots, seen = Roots([folder]), {"read": 0, "missing": 0}
    try:
        end = time.monotonic() + 20
        while min(seen.values()) < 50 and time.monotonic() < end:
            try:
                assert roots.read("cats/old/d.png", 10) == b"d"
                seen["read"] += 1
            except ImageError:
                seen["missing"] += 1
    finally:
        stop.set()
        thread.join()
    assert min(seen.values()) > 0
