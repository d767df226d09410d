"""The durable write: whole or not at all, whatever fails in between."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from cocoa import files
from cocoa.errors import DataError, UsageError
from cocoa.files import check_folder, sha256, write_file, write_folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    with write_folder(tmp_path / "model") as draft:
        (draft / "deep").mkdir()
        (draft / "deep" / "weights").write_bytes(b"1234")
        (draft / "card").write_text("old")
        assert not (tmp_path / "model").exists(), "nothing is there before all of it is"
    return tmp_path / "model"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_file(path, "one")
    write_file(path, b"two")
    assert tree(tmp_path) == {"new/file": b"two"}


def test_a_file_that_cannot_be_replaced_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "file", "old")

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "file", "new")
    assert tree(tmp_path) == {"file": b"old"}


def test_a_folder_lists_its_files_in_a_manifest(written: Path) -> None:
    files = json.loads((written / "files.json").read_text())["files"]
    assert files["deep/weights"] == {"bytes": 4, "sha256": sha256(written / "deep" / "weights")}
    assert files.keys() == {"deep/weights", "card"}
    check_folder(written, hashes=True)


@pytest.mark.parametrize("manifest", [True, False])
def test_every_name_of_a_new_folder_is_on_the_disk_when_it_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: bool
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(Path(path)))
    with write_folder(tmp_path / "new" / "runs" / "model", manifest=manifest) as draft:
        (draft / "deep" / "er").mkdir(parents=True)
        (draft / "deep" / "er" / "card").write_text("x")
    inside = [draft / "deep" / "er" / "card", draft / "deep" / "er", draft / "deep"]
    assert synced[:5] == [tmp_path, tmp_path / "new", *inside]
    assert synced[-2:] == [draft, tmp_path / "new" / "runs"]


@pytest.mark.parametrize("moment", ["filling", "moving"])
def test_a_folder_that_fails_leaves_the_older_one(written: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    before = tree(written.parent)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if Path(target) == written and "old-" not in self.name:
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with pytest.raises(OSError, match="disk full"), write_folder(written) as draft:
        (draft / "card").write_text("new")
        if moment == "filling":
            raise OSError("disk full")
    assert tree(written.parent) == before


@pytest.mark.parametrize("manifest", [True, False])
def test_a_draft_that_somebody_has_removed_never_takes_the_place_of_the_older_one(
    written: Path, manifest: bool
) -> None:
    before = tree(written)
    with pytest.raises(FileNotFoundError), write_folder(written, manifest=manifest) as draft:
        (draft / "card").write_text("new")
        shutil.rmtree(draft)
    assert tree(written) == before


def test_every_folder_is_on_the_disk_with_what_it_lists_before_the_whole_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = files.sync

    def watched(path: Path) -> None:
        name = str(path.relative_to(tmp_path))
        synced.append(re.sub(r"\.model\.\w+\.draft", "DRAFT", name) + (" named" if (made / "model").exists() else ""))
        real(path)

    monkeypatch.setattr(files, "sync", watched)
    made = tmp_path / "new" / "deep"
    with write_folder(made / "model") as draft:
        (draft / "1_Pooling").mkdir()
        (draft / "1_Pooling" / "config.json").write_text("{}")
        (draft / "weights").write_text("x")
    draft_name = "new/deep/DRAFT"
    assert synced == [
        ".",
        "new",
        f"{draft_name}/weights",
        f"{draft_name}/1_Pooling/config.json",
        f"{draft_name}/1_Pooling",
        draft_name,  # twice: after the manifest, and when all is done
        draft_name,
        "new/deep named",
    ]


def test_a_folder_can_be_removed_after_a_removal_that_was_killed(written: Path) -> None:
    left = written.with_name(f".{written.name}.draft")
    left.mkdir()
    (left / "weights").write_text("x")
    files.remove_folder(written)
    assert not written.exists()
    assert [path.name for path in written.parent.iterdir()] == [left.name]


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_is_replaced_whole(written: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with write_folder(written, manifest=False) as draft:
        (draft / "card").write_text("new")
    assert tree(written.parent) == {"model/card": b"new"}
    assert [path.name for path in written.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("leads_to", ["model", "nothing"])
def test_what_a_link_leads_to_is_replaced_and_the_link_stays(written: Path, tmp_path: Path, leads_to: str) -> None:
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(tmp_path / leads_to)
    with write_folder(link, manifest=False) as draft:
        (draft / "card").write_text("new")
    assert link.is_symlink()
    assert tree(tmp_path / leads_to) == {"card": b"new"}
    assert {path.name for path in tmp_path.iterdir()} == {"model", "elsewhere", leads_to}
    assert list(link.parent.iterdir()) == [link]


@pytest.mark.parametrize("what", ["here", "above", "file", "mount"])
def test_what_cannot_be_replaced_is_refused_before_any_work(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(written / "deep")
    if what == "mount":
        monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == tmp_path / "mount")
        (tmp_path / "mount").mkdir()
    place = {"here": Path(), "above": written, "file": written / "card", "mount": tmp_path / "mount"}[what]
    before, worked = tree(tmp_path), False
    with pytest.raises(UsageError) as caught, write_folder(place):
        worked = True
    assert (caught.value.code, worked) == ("E_USAGE_OUT", False)
    assert tree(tmp_path) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names")
def test_two_folders_change_names_at_once(written: Path) -> None:
    other = written.with_name("other")
    other.mkdir()
    assert files._exchange(other, written)
    assert (other / "card").exists() and not any(written.iterdir())
    with pytest.raises(OSError, match="nowhere"):
        files._exchange(other, written.with_name("nowhere"))


def test_a_folder_with_a_hole_is_named(written: Path) -> None:
    (written / "deep" / "weights").write_bytes(b"4321")
    check_folder(written)
    with pytest.raises(DataError, match="deep/weights is not the file that was written") as caught:
        check_folder(written, hashes=True)
    assert caught.value.code == "E_DATA_INCOMPLETE"
    (written / "deep" / "weights").write_bytes(b"123")
    with pytest.raises(DataError, match="deep/weights has 3 bytes, not 4"):
        check_folder(written)
    (written / "deep" / "weights").unlink()
    with pytest.raises(DataError, match="deep/weights is missing"):
        check_folder(written)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_readable_manifest_is_not_complete(written: Path, content: str | None) -> None:
    (written / "files.json").unlink()
    if content is not None:
        (written / "files.json").write_text(content)
    with pytest.raises(DataError, match=r"no readable files\.json"):
        check_folder(written)


@pytest.mark.parametrize("taken", [True, False])
def test_a_folder_that_is_to_replace_nothing_takes_no_place_that_was_filled_meanwhile(
    tmp_path: Path, taken: bool
) -> None:
    def fill() -> None:
        with write_folder(tmp_path / "model", replace=False) as draft:
            (draft / "card").write_text("late")
            (tmp_path / "model").mkdir()
            if taken:
                (tmp_path / "model" / "card").write_text("first")

    if taken:
        with pytest.raises(FileExistsError):
            fill()
    else:
        fill()
    assert (tmp_path / "model" / "card").read_text() == ("first" if taken else "late")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
