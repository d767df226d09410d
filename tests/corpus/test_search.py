"""From a folder of pictures or a table to answers: nothing is lost on the way, and a wrong model finds nothing."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cocoa import CocoaError, Embedder, Index
from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.job import embed_corpus
from cocoa.model import EmbeddingModel


@pytest.fixture
def embedder(tiny, tmp_path):
    EmbeddingModel(tiny(), max_tokens=128).save(tmp_path / "model")
    return Embedder.load(tmp_path / "model")


@pytest.fixture
def pictures(tmp_path, picture):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number in range(5):
        picture(40 + number, 50, number).save(folder / f"{number}.png")
    picture(60, 60, 9).save(folder / "more" / "last.webp")
    (folder / "readme.txt").write_text("not a picture")
    return folder


def test_a_folder_of_pictures_comes_back_whole_and_in_order(embedder, pictures, tmp_path):
    embeddings = embed_corpus(embedder, pictures, tmp_path / "out")
    assert embeddings.table()["id"].to_pylist() == ["0.png", "1.png", "2.png", "3.png", "4.png", "more/last.webp"]
    again = Embeddings.open(tmp_path / "out")
    assert again.table() == embeddings.table()
    np.testing.assert_array_equal(again.vectors(), embeddings.vectors())


def test_search_ranks_as_a_plain_loop_over_cosines_does(embedder, pictures, tmp_path):
    embeddings = embed_corpus(embedder, pictures, tmp_path / "out")
    index = Index.open(tmp_path / "out")
    queries = ["a red apple", "an owl in the middle"]
    found = index.search(embedder, queries, k=4)
    asked = embedder.encode_query(queries)
    ids = embeddings.table()["id"].to_pylist()
    for vector, hits in zip(asked, found, strict=True):
        cosines = {name: float(vector @ row) for name, row in zip(ids, embeddings.vectors(), strict=True)}
        best = sorted(cosines, key=cosines.get, reverse=True)[:4]
        assert [hit.id for hit in hits] == best
        np.testing.assert_allclose([hit.score for hit in hits], [cosines[name] for name in best], atol=1e-6)


def test_a_table_keeps_its_ids_and_texts(embedder, pictures, tmp_path):
    table = tmp_path / "rows.jsonl"
    rows = [
        {"id": "a", "text": "an owl"},
        {"id": "b", "image": "pictures/0.png"},
        {"id": "c", "text": "x", "image": "pictures/1.png"},
    ]
    table.write_text("\n".join(json.dumps({"text": "", "image": ""} | row) for row in rows))
    embeddings = embed_corpus(embedder, table, tmp_path / "out")
    assert embeddings.table()["id"].to_pylist() == ["a", "b", "c"]
    assert embeddings.table()["text"].to_pylist() == ["an owl", "", "x"]


@pytest.mark.parametrize(
    ("rows", "code", "names"),
    [
        ([{"text": "a"}, {"text": ""}], "E_DATA_EMPTY", ":2"),
        ([{"id": "1", "text": "a"}, {"id": "1", "text": "b"}], "E_DATA_ID", ":2"),
        ([{"image": "../secret.png"}], "E_DATA_PATH", ":1"),
        ([{"caption": "a"}], "E_DATA_COLUMN", "rows.parquet"),
    ],
)
def test_a_bad_row_is_named(embedder, tmp_path, rows, code, names):
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(CocoaError) as caught:
        embed_corpus(embedder, tmp_path / "rows.parquet", tmp_path / "out", max_bad_rate=None)
    assert caught.value.code == code
    assert names in str(caught.value)


def test_a_picture_that_does_not_open_is_named_and_no_card_is_written(embedder, pictures, tmp_path):
    (pictures / "3.png").write_bytes(b"not a picture")
    with pytest.raises(CocoaError) as caught:
        embed_corpus(embedder, pictures, tmp_path / "out", max_bad_rate=None)
    assert caught.value.code == "E_IMAGE_OPEN"
    assert "3.png" in str(caught.value)
    with pytest.raises(CocoaError) as caught:
        Index.open(tmp_path / "out")
    assert caught.value.code == "E_DATA_INCOMPLETE"
    assert not list((tmp_path / "out" / "shards").glob("*"))


def test_vectors_of_another_model_are_refused(embedder, pictures, tiny, tmp_path):
    embed_corpus(embedder, pictures, tmp_path / "out")
    EmbeddingModel(tiny(), layout="causal", max_tokens=128).save(tmp_path / "other")
    with pytest.raises(CocoaError) as caught:
        Index.open(tmp_path / "out").search(Embedder.load(tmp_path / "other"), ["an owl"])
    assert caught.value.code == "E_MODEL_OTHER"


def test_a_truncated_folder_of_embeddings_is_refused(embedder, pictures, tmp_path):
    embed_corpus(embedder, pictures, tmp_path / "out")
    [table] = (tmp_path / "out" / "shards").glob("*/vectors.parquet")
    table.write_bytes(table.read_bytes()[:-10])
    with pytest.raises(CocoaError) as caught:
        Index.open(tmp_path / "out")
    assert caught.value.code == "E_DATA_INCOMPLETE"
