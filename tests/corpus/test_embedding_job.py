"""A job is one model, one input and one folder; what it stores are unit vectors, and what it leaves out is counted."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from embedding import bad_rows, leftovers, outcome, save_model, shards, texts, write_jsonl

from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.filling import Progress
from cocoa.corpus.job import embed_corpus
from cocoa.embedder import Embedder
from cocoa.errors import CocoaError, UsageError
from cocoa.model import EmbeddingModel


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny):
    return save_model(tiny(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def embedder(model) -> Embedder:
    return Embedder.load(model)


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", texts(25))


def code_of(embedder, rows, out, **options) -> tuple[str, str]:
    with pytest.raises(CocoaError) as caught:
        embed_corpus(embedder, rows, out, **{"shard_rows": 10, **options})
    return caught.value.code, str(caught.value)


def test_a_finished_folder_tells_all_of_itself(embedder, model, rows, tmp_path):
    made = embed_corpus(embedder, rows, tmp_path / "out", shard_rows=10)
    embeddings = Embeddings.open(tmp_path / "out")
    assert len(embeddings) == len(made) == 25
    assert embeddings.identity == embedder.identity
    assert embeddings.model == str(model)
    assert embeddings.dimensions == embedder.dimensions
    assert embeddings.schema.names == ["id", "text", "image"]
    for size in (1, 7, 10, 25, 100):
        batches = list(embeddings.batches(size))
        assert [len(batch) for batch in batches] == [size] * (25 // size) + [25 % size] * (25 % size > 0)
        assert pa.Table.from_batches(batches) == embeddings.table()
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] == "."] == [".claims"]


def test_a_file_is_no_folder_to_write_to(embedder, rows):
    with pytest.raises(UsageError, match="is a file, not a folder") as caught:
        embed_corpus(embedder, rows, rows)
    assert caught.value.code == "E_USAGE_OUT"


def test_texts_that_are_cut_are_counted_whoever_made_their_shard(embedder, tmp_path):
    rows = [{"id": str(number), "text": "a red apple " * (40 if number in (1, 4, 5) else 1)} for number in range(6)]
    source = write_jsonl(tmp_path / "rows.jsonl", rows)
    embeddings = embed_corpus(embedder, source, tmp_path / "out", shard_rows=2)
    assert embeddings.card["cut_texts"] == 3
    assert [shard["cut_texts"] for shard in embeddings.card["shards"]] == [1, 0, 2]
    (tmp_path / "out" / "embeddings.json").unlink()
    assert embed_corpus(embedder, source, tmp_path / "out", shard_rows=2).card["cut_texts"] == 3
    assert embeddings.table().schema.metadata is None


def test_run_again_it_computes_nothing(embedder, rows, tmp_path, monkeypatch):
    before = outcome_of(embedder, rows, tmp_path / "out")
    monkeypatch.setattr(EmbeddingModel, "embed_all", None)
    assert outcome_of(embedder, rows, tmp_path / "out") == before
    # Without the card it is only put together again.
    (tmp_path / "out" / "embeddings.json").unlink()
    assert outcome_of(embedder, rows, tmp_path / "out") == before


def outcome_of(embedder, rows, out):
    embed_corpus(embedder, rows, out, shard_rows=10)
    return outcome(out)


def test_another_model_other_settings_and_another_input_are_refused_by_name(embedder, tiny, rows, tmp_path):
    out = tmp_path / "out"
    embed_corpus(embedder, rows, out, shard_rows=10)
    other = Embedder.load(save_model(tiny(), tmp_path / "other", layout="causal"))
    code, said = code_of(other, rows, out)
    assert code == "E_MODEL_OTHER" and "layout" in said
    code, said = code_of(embedder, rows, out, shard_rows=11)
    assert code == "E_USAGE_OUT" and "shard_rows 10, not 11" in said
    shutil.copy(rows, tmp_path / "copy.jsonl")
    code, said = code_of(embedder, tmp_path / "copy.jsonl", out)
    assert code == "E_USAGE_OUT" and "input" in said
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    assert code_of(embedder, rows, tmp_path / "thesis")[0] == "E_USAGE_OUT"
    # A name that is not UTF-8, as Python gives it.
    assert code_of(embedder, rows, tmp_path / "o\udcff")[0] == "E_USAGE_OUT"
    assert not (tmp_path / "o\udcff").exists()


def test_drafts_of_others_are_left_alone_and_those_of_the_job_removed(embedder, rows, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    for folder in (runs, out):
        (folder / ".index.a1b2.draft").mkdir(parents=True)
        (folder / ".report.html.a1b2.draft").write_text("half")
    (runs / "mine").mkdir()
    assert code_of(embedder, rows, runs)[0] == "E_USAGE_OUT"
    for name in ("plan.json", "listing.jsonl", "embeddings.json"):
        (out / f".{name}.a1b2.draft").write_text("half")
    embed_corpus(embedder, rows, out, shard_rows=10)
    for folder in (runs, out):
        kept = {path.name for path in folder.iterdir() if path.suffix == ".draft"}
        assert kept == {".index.a1b2.draft", ".report.html.a1b2.draft"}


@pytest.mark.parametrize("when", ["before", "while"])
def test_an_input_that_changes_is_noticed(embedder, rows, tmp_path, when):
    out = tmp_path / "out"

    def change(now: Progress) -> None:
        if now.done >= 10:
            rows.write_text(rows.read_text().replace("apple", "grape"))

    if when == "while":
        code, said = code_of(embedder, rows, out, on_progress=change)
    else:
        embed_corpus(embedder, rows, out, shard_rows=10)
        rows.write_text(rows.read_text() + json.dumps({"id": "new", "text": "new"}) + "\n")
        code, said = code_of(embedder, rows, out)
    assert code == "E_SHARD_CHANGED"
    assert "rows.jsonl" in said


def test_a_folder_of_pictures_that_changes_is_noticed(embedder, tmp_path, picture):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        picture(30, 30, number).save(folder / f"{number}.png")
    embed_corpus(embedder, folder, tmp_path / "out")
    for name, what in (("1.png", "has changed"), ("0a.png", "has come")):
        picture(31, 30, 9).save(folder / name)
        code, said = code_of(embedder, folder, tmp_path / "out", shard_rows=1024)
        assert code == "E_SHARD_CHANGED" and name in said and what in said
        shutil.rmtree(tmp_path / "out")
        embed_corpus(embedder, folder, tmp_path / "out")
    (folder / "2.png").unlink()
    code, said = code_of(embedder, folder, tmp_path / "out", shard_rows=1024)
    assert code == "E_SHARD_CHANGED" and "2.png" in said and "is gone" in said


def test_the_file_that_has_changed_is_the_one_that_is_named(embedder, tmp_path, picture):
    pictures, tables = tmp_path / "pictures", tmp_path / "tables"
    (pictures / "a").mkdir(parents=True)
    for name in ("a-b.png", "c.png"):
        picture(30, 30, 0).save(pictures / name)
    for name in ("a", "z"):
        write_jsonl(tables / f"{name}.jsonl", [{"text": name}])
    zipfile.ZipFile(tables / "images.zip", "w").close()
    for source in (pictures, tables):
        embed_corpus(embedder, source, tmp_path / f"out-{source.name}")
    picture(30, 30, 0).save(pictures / "a" / "x.png")  # Its folder comes before a-b.png, the slash in its path behind.
    (tables / "z.jsonl").unlink()
    for source, said in ((pictures, "a/x.png: the file has come"), (tables, "z.jsonl: the file is gone")):
        with pytest.raises(CocoaError, match=said):
            embed_corpus(embedder, source, tmp_path / f"out-{source.name}")


@pytest.mark.parametrize("was_there", [True, False])
def test_an_archive_of_pictures_that_changes_under_a_job_is_noticed(embedder, tmp_path, picture, was_there):
    folder = tmp_path / "in"
    rows = write_jsonl(folder / "rows.jsonl", [{"id": str(n), "image": f"{n}.png"} for n in range(30)])
    for number in range(30):
        picture(30, 30, number).save(folder / f"{number}.png")

    def pack(shift: int) -> None:
        with zipfile.ZipFile(folder / "images.zip", "w") as archive:
            for number in range(30):
                archive.write(folder / f"{(number + shift) % 30}.png", f"{number}.png")

    def change(now: Progress) -> None:
        if now.done == 10:
            pack(1)

    if was_there:
        pack(0)
    code, said = code_of(embedder, rows, tmp_path / "out", on_progress=change)
    assert code == "E_SHARD_CHANGED"
    assert "images.zip" in said and ("has changed" if was_there else "has come") in said


def test_bad_rows_are_allowed_up_to_a_rate_or_not_at_all(embedder, tmp_path):
    content = texts(20)
    content[4]["text"] = content[15]["text"] = ""
    rows = write_jsonl(tmp_path / "rows.jsonl", content)
    code, said = code_of(embedder, rows, tmp_path / "strict", max_bad_rate=None)
    assert code == "E_DATA_EMPTY" and "rows.jsonl:5" in said
    code, said = code_of(embedder, rows, tmp_path / "out", max_bad_rate=0.09)
    assert code == "E_DATA_BAD_ROWS" and "2 of 20" in said
    assert not (tmp_path / "out" / "embeddings.json").exists()
    assert len(embed_corpus(embedder, rows, tmp_path / "out", shard_rows=10, max_bad_rate=0.1)) == 18
    assert [row["id"] for row in bad_rows(tmp_path / "out")] == ["row 4", "row 15"]
    # A stricter look at a finished folder judges it too.
    assert code_of(embedder, rows, tmp_path / "out", max_bad_rate=None)[0] == "E_DATA_EMPTY"
    write_jsonl(tmp_path / "none.jsonl", [{"text": ""}, {"text": None}])
    code, said = code_of(embedder, tmp_path / "none.jsonl", tmp_path / "none")
    assert code == "E_DATA_EMPTY" and "none.jsonl:1" in said


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0, 0.9, 1e30])
def test_a_wrong_vector_is_a_bad_row_and_never_stored(embedder, rows, tmp_path, monkeypatch, wrong):
    clean = embed_corpus(embedder, rows, tmp_path / "clean").vectors()
    right = EmbeddingModel.embed_all

    def spoiled(self, samples, **options):
        vectors = right(self, samples, **options).clone()
        vectors[3] *= wrong
        return vectors

    monkeypatch.setattr(EmbeddingModel, "embed_all", spoiled)
    embeddings = embed_corpus(embedder, rows, tmp_path / "out")
    assert [(row["id"], row["code"]) for row in bad_rows(tmp_path / "out")] == [("row 3", "E_MODEL_OUTPUT")]
    np.testing.assert_array_equal(embeddings.vectors(), np.delete(clean, 3, 0))


def test_vectors_of_another_length_stop_the_job(embedder, rows, tmp_path, monkeypatch):
    right = EmbeddingModel.embed_all
    monkeypatch.setattr(EmbeddingModel, "embed_all", lambda self, samples, **more: right(self, samples)[:, :-1])
    assert code_of(embedder, rows, tmp_path / "out")[0] == "E_MODEL_OUTPUT"
    assert not shards(tmp_path / "out")
    assert not leftovers(tmp_path / "out")


def test_a_damaged_shard_is_never_read(embedder, rows, tmp_path):
    embed_corpus(embedder, rows, tmp_path / "out", shard_rows=10)
    path = tmp_path / "out" / "shards" / shards(tmp_path / "out")[1] / "vectors.parquet"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 20).tolist():
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        read = Embeddings.open(tmp_path / "out").batches(10)
        assert len(next(read)) == 10
        with pytest.raises(CocoaError) as caught:
            next(read)
        assert caught.value.code == "E_DATA_INCOMPLETE"
    path.write_bytes(whole[:-1])
    with pytest.raises(CocoaError) as caught:
        Embeddings.open(tmp_path / "out")
    assert caught.value.code == "E_DATA_INCOMPLETE"


def test_the_list_of_files_is_never_held_as_a_whole(embedder, rows, tmp_path, monkeypatch):
    real = Path.read_bytes

    def read_bytes(path):
        assert path.name != "listing.jsonl"
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    embed_corpus(embedder, rows, tmp_path / "out")


def test_progress_counts_all_rows_to_the_end(embedder, rows, tmp_path):
    seen: list[Progress] = []
    embed_corpus(embedder, rows, tmp_path / "out", shard_rows=10, on_progress=seen.append)
    done = [now.done for now in seen]
    assert done == sorted(done)
    assert (done[-1], seen[-1].rows, seen[-1].kept) == (25, 25, 0)
    assert seen[-1].rate > 0 and seen[-1].seconds_left == 0
    (tmp_path / "out" / "embeddings.json").unlink()
    shutil.rmtree(tmp_path / "out" / "shards" / shards(tmp_path / "out")[2])
    embed_corpus(embedder, rows, tmp_path / "out", shard_rows=10, on_progress=seen.append)
    assert (seen[-1].done, seen[-1].kept) == (25, 20)


@pytest.mark.parametrize("threads", [1, 4])
def test_how_many_threads_decode_changes_no_bit(embedder, rows, tmp_path, threads):
    with torch.inference_mode():
        made = embed_corpus(embedder, rows, tmp_path / "out", threads=threads)
    np.testing.assert_array_equal(made.vectors(), embedder.encode_document([row["text"] for row in texts(25)]))
