"""Pictures inside archives are shown where the archive lies in a root; nothing else of it, and nothing beside it."""

from __future__ import annotations

import io
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gallery import Row, index_of
from PIL import Image

from cocoa.errors import ImageError
from cocoa.serving import archived
from cocoa.serving.archived import Archived
from cocoa.serving.roots import Roots
from making import make_picture
from picture_files import encode

PICTURES = {f"cats/{n}.png": encode(make_picture(40 + n, 30, n), "PNG") for n in range(5)}


def write_tar(path, members=PICTURES, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def num_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def write_zip(path, members=PICTURES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    write_tar(folder / "a.tar")
    write_zip(folder / "a.zip")
    write_zip(tmp_path / "outside.zip")
    (folder / "link.zip").symlink_to(tmp_path / "outside.zip")
    return folder


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_every_member_is_read_by_absolute_and_relative_place(root, kind):
    archives = Archived(Roots([root]))
    for name, content in PICTURES.items():
        assert archives.read(f"{root}/a.{kind}!{name}", 10**6) == content
        assert archives.read(f"a.{kind}!{name}", 10**6) == content


def test_a_name_may_have_exclamation_marks_of_its_own(root):
    write_zip(root / "wow!.zip", {"a!b.png": b"picture"})
    (root / "plain!file.png").write_bytes(b"file")
    archives = Archived(Roots([root]))
    assert archives.read("wow!.zip!a!b.png", 100) == b"picture"
    assert archives.read("plain!file.png", 100) == b"file"


def test_all_else_is_told_in_one_way(root, tmp_path):
    (root / "broken.zip").write_bytes((root / "a.zip").read_bytes()[:-30])
    (root / "broken.tar").write_bytes(b"x" * 5000)
    write_tar(root / "packed.tar.gz", mode="w:gz")
    archives = Archived(Roots([root]))
    for place in (
        "a.zip!gone.png", "a.tar!gone.png", "a.zip!", "a.tar!", "a.zip!../a.zip", "a.tar!link.png", "!", "!a.zip!x",
        "link.zip!cats/0.png", f"{tmp_path}/outside.zip!cats/0.png", "../outside.zip!cats/0.png", "gone.zip!cats/0.png",
        "broken.zip!cats/0.png", "broken.tar!cats/0.png", "packed.tar.gz!cats/0.png", "cats/0.png", "a.zip!cats",
    ):  # fmt: skip
        with pytest.raises(ImageError, match="no such picture") as caught:
            archives.read(place, 10**6)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_limits_hold_at_the_edge(root, kind):
    archives = Archived(Roots([root]))
    size = len(PICTURES["cats/0.png"])
    assert len(archives.read(f"a.{kind}!cats/0.png", size)) == size
    with pytest.raises(ImageError, match="E_IMAGE_TOO_LARGE"):
        archives.read(f"a.{kind}!cats/0.png", size - 1)


def test_an_archive_that_is_replaced_is_read_anew(root):
    archives = Archived(Roots([root]))
    assert archives.read("a.zip!cats/0.png", 10**6) == PICTURES["cats/0.png"]
    write_zip(root / "new.zip", {"cats/0.png": b"another"})
    (root / "new.zip").replace(root / "a.zip")
    assert archives.read("a.zip!cats/0.png", 10**6) == b"another"


def test_no_archive_stays_open_however_many_are_read_at_once(root):
    for number in range(3 * archived._KEPT):
        write_zip(root / f"{number}.zip", {"a.png": f"{number}".encode() * 1000})
    archives = Archived(Roots([root]))
    before, wrong = num_open(), []

    def read(seed):
        numbers = np.random.default_rng(seed).integers(3 * archived._KEPT, size=60)
        wrong.extend(n for n in numbers if archives.read(f"{n}.zip!a.png", 10**6) != f"{n}".encode() * 1000)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert num_open() == before


def test_the_page_shows_them(serve, embedder, root, tmp_path):
    colours = {f"{n}.png": Image.new("RGB", (40 + n, 30), (250 - 40 * n, 30 * n, 90)) for n in range(4)}
    for kind, write in (("tar", write_tar), ("zip", write_zip)):
        write(root / f"colours.{kind}", {name: encode(picture, "PNG") for name, picture in colours.items()})
    rows = [
        Row(f"{kind} {name}", "", f"{root}/colours.{kind}!{name}", picture=picture)
        for kind in ("tar", "zip")
        for name, picture in colours.items()
    ]
    rows.append(Row("outside", "a text", f"{tmp_path}/outside.zip!cats/0.png"))
    with serve(index_of(embedder, rows, tmp_path / "index", {}), roots=(root,)) as here:
        hits = here.post("/v1/search", {"text": "a cat", "k": 20}).json()["hits"]
        assert len(hits) == len(rows)
        for hit in hits:
            answer = here.client.get(hit["image"])
            if hit["id"] == "outside":
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "E_REQUEST_DOCUMENT")
                continue
            shown, original = Image.open(io.BytesIO(answer.content)), colours[hit["id"].split(" ")[1]]
            assert shown.size == original.size
            assert np.abs(np.asarray(shown.convert("RGB"), int) - np.asarray(original, int)).max() < 8
        told = here.post("/v1/explain", {"text": "a cat", "id": "zip 0.png"})
        assert told.status_code == 200
