"""The index: one behaviour in every store, bound to one model, equal scores in the documents' order."""

from __future__ import annotations

import json
from importlib import import_module

import numpy as np
import pyarrow as pa
import pytest
from indexing import COLUMNS, D, embeddings, identity, rows, unit, values

from cocoa import CocoaError
from cocoa.corpus.embeddings import vectors_of
from cocoa.corpus.examples import combined
from cocoa.corpus.index import Index, Rows
from cocoa.corpus.stores import rows as stored
from cocoa.corpus.stores.rows import table_vectors

NAMES = [f"r{number}" for number in range(120)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return embeddings(tmp_path_factory.mktemp("made") / "embeddings", rows(NAMES))


@pytest.fixture(scope="module")
def exact(made):
    return Index.open(made.folder)


@pytest.fixture(scope="module")
def built(made, tmp_path_factory):
    return Index.build(made, tmp_path_factory.mktemp("built") / "index")


@pytest.fixture(params=["exact", "built"])
def index(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def fresh(tmp_path):
    return Index.create(tmp_path / "index", identity(), COLUMNS)


def plain_loop(made, query, k, keep=lambda name: True):
    """Returns the ids and scores of the nearest rows, by looking at each in a loop."""
    pairs = []
    for batch in made.batches():
        pairs += zip(batch.column("id").to_pylist(), vectors_of(batch).astype(np.float64) @ query, strict=True)
    return sorted((pair for pair in pairs if keep(pair[0])), key=lambda pair: -pair[1])[:k]


class Pieces:
    """A table that stays in pieces, as one with more than 2 GiB of texts does, whoever combines it."""

    def __init__(self, table):
        self._table = table

    def __getattr__(self, name):
        return getattr(self._table, name)

    def combine_chunks(self):
        return self


def test_the_vectors_of_a_table_in_pieces_are_those_of_all_rows(made):
    whole = made.table()
    pieces = pa.concat_tables([whole.slice(0, 50), whole.slice(50, 0), whole.slice(50)])
    assert pieces["text"].num_chunks > 1
    np.testing.assert_array_equal(table_vectors(Pieces(pieces)), made.vectors())
    assert table_vectors(whole.slice(0, 0)).shape == (0, D)


def test_a_folder_is_held_with_room_for_more_texts_than_a_plain_column_takes(exact):
    # Arrow takes no row out of plain strings of 2 GiB together, and no test can be that large.
    held = exact._store._rows.schema
    assert {str(held.field(name).type) for name in ("id", "text", "image", "column_0")} == {"large_string"}


def test_search_is_the_plain_loop_over_all_rows(index, made):
    for query in unit(5, 1):
        hits = index.search_vectors(query[None], 7)[0]
        expected = plain_loop(made, query, 7)
        assert [hit.id for hit in hits] == [name for name, _ in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-6)


def test_a_filtered_search_is_the_plain_loop_over_the_rows_that_pass(index, made):
    known = {name: values(number) for number, name in enumerate(NAMES)}
    query = unit(1, 2)[0]
    hits = index.search_vectors(query[None], 9, filter={"column": "kind", "op": "=", "value": "dog"})[0]
    expected = plain_loop(made, query, 9, lambda name: known[name]["kind"] == "dog")
    assert [hit.id for hit in hits] == [name for name, _ in expected]
    assert all(hit.columns == known[hit.id] for hit in hits)
    assert index.search_vectors(query[None], 9, filter="kind = 'dog'")[0] == hits


@pytest.mark.parametrize("wrong", ["kind =", 7, ["kind"]])
def test_what_is_no_filter_is_refused_in_python_too(index, wrong):
    with pytest.raises(CocoaError, match="filter") as caught:
        index.count(wrong)
    assert caught.value.code == "E_USAGE_FILTER" and caught.value.where == "filter"


def test_more_than_there_are_gives_all_and_none_that_pass_gives_none(index):
    assert len(index.search_vectors(unit(1, 1), 10_000)[0]) == len(NAMES) == len(index)
    assert index.search_vectors(unit(1, 1), 5, filter={"column": "year", "op": ">", "value": 3000}) == [[]]
    assert index.search_vectors(unit(0, 1), 5) == []


def test_documents_come_back_whole_and_in_the_order_asked_for(index, made):
    table = made.table()
    [two, one, again] = index.get(["r2", "r1", "r2"])
    assert (two.id, two.text, two.columns) == ("r2", "text of r2", values(2))
    np.testing.assert_array_equal(one.vector, np.array(table["vector"][1].as_py(), np.float32))
    assert again.id == "r2"
    with pytest.raises(CocoaError, match="no document 'nobody'"):
        index.get(["r1", "nobody"])


def test_facets_count_the_commonest_values(index):
    kinds = [values(number)["kind"] for number in range(len(NAMES))]
    expected = {kind: kinds.count(kind) for kind in set(kinds) - {None}}
    found = index.facets("kind")
    assert found == expected
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert len(index.facets("year", 2)) == 2
    with pytest.raises(CocoaError, match="no column 'colour'"):
        index.facets("colour")


def test_of_a_column_of_names_so_many_are_counted_and_those_of_all_rows(index, monkeypatch):
    monkeypatch.setattr("cocoa.corpus.index.MAX_VALUES", 2)
    kinds = [values(number)["kind"] for number in range(len(NAMES))]
    found = index.facets("kind")
    assert len(found) == 2
    assert all(count == kinds.count(kind) for kind, count in found.items())


def test_the_range_of_a_column_is_that_of_its_values(index, fresh):
    prices = [values(number)["price"] for number in range(len(NAMES)) if values(number)["price"] is not None]
    assert index.range("price") == (min(prices), max(prices))
    assert fresh.range("price") is None
    fresh.add(changed("price", None, at=0))
    assert fresh.range("price") == (0.667, 0.667)
    with pytest.raises(CocoaError, match="no column 'colour'"):
        index.range("colour")


def test_equal_scores_keep_the_documents_order_even_where_many_tie_at_the_end(tmp_path):
    # 90 rows of one vector among 30 others, asked for fewer than tie: a store's own order must not show.
    source = rows(NAMES)
    vectors = unit(len(NAMES), 0)
    vectors[15:105] = vectors[15]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=source.table.schema.field("vector").type)
    made = embeddings(
        tmp_path / "e", Rows(source.identity, source.table.set_column(1, source.table.schema.field(1), column))
    )
    opened, built = Index.open(made.folder), Index.build(made, tmp_path / "index")
    built.upsert(Rows(source.identity, made.table().slice(40, 5)))  # an upsert does not move a row to the end
    for index in (opened, built):
        for k in (3, 20, 60):
            assert [hit.id for hit in index.search_vectors(vectors[15:16], k)[0]] == NAMES[15 : 15 + k]


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_question_looks_at_so_many_of_equal_documents_and_no_more(tmp_path, monkeypatch, kind):
    source = rows([f"r{number}" for number in range(20_000)], columns=False)
    field = source.table.schema.field("vector")
    same = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(unit(1, 3)[0], 20_000)), type=field.type)
    place = source.table.schema.get_field_index("vector")
    made = embeddings(tmp_path / "e", Rows(source.identity, source.table.set_column(place, field, same)), columns=False)
    index = Index.open(made.folder) if kind == "folder" else Index.build(made, tmp_path / "index")
    limits, real = [], index._store.nearest
    monkeypatch.setattr(
        index._store, "nearest", lambda queries, limit, *rest: limits.append(limit) or real(queries, limit, *rest)
    )
    [hits] = index.search_vectors(unit(1, 3), 5)
    assert len({hit.id for hit in hits}) == 5
    assert max(limits) == 16_384


def test_examples_pull_and_push_and_are_left_out_themselves(index, made):
    table = {row["id"]: np.array(row["vector"], np.float32) for row in made.table().to_pylist()}
    text = unit(1, 8)
    hits = index.search_examples(5, vectors=text, like=["r3", "r4"], unlike=["r9"])
    query = (text[0] + table["r3"] + table["r4"]) / 3 - 0.5 * table["r9"]
    expected = plain_loop(made, query / np.linalg.norm(query), 5, lambda name: name not in ("r3", "r4", "r9"))
    assert [hit.id for hit in hits] == [name for name, _ in expected]
    for wrong in ({"unlike": ["r1"]}, {"like": ["r1"], "unlike": ["r1"], "weight": 1.0}):
        with pytest.raises(CocoaError) as caught:
            index.search_examples(5, **wrong)
        assert caught.value.code == "E_USAGE_EXAMPLES"
    np.testing.assert_allclose(np.linalg.norm(combined(text, unit(2, 9))), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [("fingerprint", "e" * 64), ("backbone", "qwen2_vl"), ("layout", "causal"), ("pooling", "mean"),
     ("bridge_token", 8), ("dtype", "bfloat16"), ("normalized", False), ("prompts", "other"), ("min_pixels", 4),
     ("max_pixels", 4), ("max_tokens", 4)],
)  # fmt: skip
def test_vectors_of_another_model_are_refused_and_the_difference_is_told(fresh, exact, field, value):
    told = {"min_pixels": "smallest picture", "max_pixels": "largest picture", "max_tokens": "longest row",
            "layout": "attention layout", "dtype": "type of the weights", "normalized": "normalisation",
            "bridge_token": "bridge token"}.get(field, field)  # fmt: skip
    for act in (
        lambda: fresh.add(rows(["a"], **{field: value})),
        lambda: fresh.upsert(rows(["a"], **{field: value})),
        lambda: exact.check_identity(identity(**{field: value}), "other"),
    ):
        with pytest.raises(CocoaError, match=told) as caught:
            act()
        assert caught.value.code == "E_MODEL_OTHER"
    fresh.add(rows(["a"], cocoa="2"))  # a version alone changes no vector
    assert len(fresh) == 1


def test_vectors_of_another_length_are_refused_in_rows_and_in_queries(fresh, index):
    with pytest.raises(CocoaError, match="number of dimensions"):
        fresh.add(rows(["a"], dimensions=D + 1))
    wrong = Rows(identity(), rows(["a"], dimensions=D + 1).table)
    with pytest.raises(CocoaError, match="8 dimensions"):
        fresh.add(wrong)
    for query in (unit(1, 1, D + 1), unit(1, 1)[0], np.full((1, D), np.nan, np.float32)):
        with pytest.raises(CocoaError) as caught:
            index.search_vectors(query)
        assert caught.value.code == "E_INDEX_VECTOR"
    for k in (0, -1, 10_001):
        with pytest.raises(CocoaError, match="k is"):
            index.search_vectors(unit(1, 1), k)


NO_TEXT = pa.array([b"\xff"]).view(pa.string())
"""What Arrow calls a text and is none, as it comes out of a Parquet file that nobody has looked over."""


def changed(column, value, at=1):
    """Returns three rows of which one has another value in a column."""
    source = rows(["a", "b", "c"])
    held = source.table[column].to_pylist()
    held[at] = value
    place = source.table.schema.get_field_index(column)
    field = source.table.schema.field(column)
    return Rows(source.identity, source.table.set_column(place, field, pa.array(held, field.type)))


@pytest.mark.parametrize(
    ("given", "code", "names"),
    [
        (changed("id", "a"), "E_INDEX_ID", "'a' stands twice"),
        (changed("id", None), "E_INDEX_ID", "row 1"),
        (changed("id", ""), "E_INDEX_ID", "row 1"),
        (changed("id", "x" * 1025), "E_INDEX_ID", "row 1"),
        (changed("id", "a\0b"), "E_INDEX_ID", "row 1"),
        (changed("vector", [0.0] * D), "E_INDEX_VECTOR", "row 1 (b)"),
        (changed("vector", [float("nan")] + [0.0] * (D - 1)), "E_INDEX_VECTOR", "row 1 (b)"),
        (changed("vector", [2.0] + [0.0] * (D - 1)), "E_INDEX_VECTOR", "norm is 2"),
        (changed("vector", None), "E_INDEX_VECTOR", "row 1"),
        (changed("vector", [1.0, None] + [0.0] * (D - 2)), "E_INDEX_VECTOR", "row 1 (b)"),
        (Rows(identity(), rows(["a"]).table.append_column("id", pa.array(["b"]))), "E_INDEX_ROWS", "two columns"),
        (Rows(identity(), rows(["a"]).table.set_column(2, "text", pa.array([[1]]))), "E_INDEX_ROWS", "'text'"),
        (Rows(identity(), rows(["a"]).table.set_column(2, "text", NO_TEXT)), "E_INDEX_ROWS", "damaged"),
        (Rows(identity(), rows(["a"]).table.set_column(0, "id", NO_TEXT)), "E_INDEX_ROWS", "damaged"),
        (rows(["a"], columns=False), "E_INDEX_ROWS", "no column 'kind'"),
        (Rows(identity(), rows(["a"]).table.append_column("odd", pa.array([1]))), "E_INDEX_ROWS", "'odd'"),
        (Rows(identity(), rows(["a"]).table.set_column(5, "year", pa.array(["soon"]))), "E_INDEX_ROWS", "'year'"),
    ],
)  # fmt: skip
def test_rows_that_no_index_takes_are_named_and_nothing_is_written(fresh, given, code, names):
    fresh.add(rows(["old"]))
    for act in (fresh.add, fresh.upsert):
        with pytest.raises(CocoaError) as caught:
            act(given)
        assert caught.value.code == code
        assert names in str(caught.value)
    assert len(fresh) == 1
    assert fresh.verify().ok


def test_add_refuses_a_known_id_and_upsert_gives_it_its_new_content(fresh):
    assert fresh.add(rows(["a", "b"], 1)) == 2
    with pytest.raises(CocoaError, match="'b' is in the index already"):
        fresh.add(rows(["b", "c"], 2))
    assert len(fresh) == 2
    assert fresh.upsert(rows(["b", "c"], 2)) == 2
    assert len(fresh) == 3
    [found] = fresh.get(["b"])
    np.testing.assert_array_equal(found.vector, unit(2, 2)[0])
    assert fresh.delete(["a", "nobody"]) == 1
    assert fresh.delete([]) == 0
    assert {hit.id for hit in fresh.search_vectors(unit(1, 1))[0]} == {"b", "c"}


@pytest.mark.parametrize("price", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_is_missing_and_a_missing_text_is_empty(fresh, price):
    fresh.add(changed("price", price))
    fresh.upsert(Rows(identity(), rows(["d"]).table.drop_columns(["text", "image"])))
    assert fresh.get(["b"])[0].columns["price"] is None
    assert fresh.count({"column": "price", "op": "is_null"}) == 1
    assert fresh.get(["d"])[0].text == ""


def test_in_an_index_of_old_a_number_that_is_not_finite_is_missing_too(fresh, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(stored, "finite", lambda values: values)  # as it was written before
        fresh.add(changed("price", float("inf")))
    hits = fresh.search_vectors(unit(1, 1), 3)[0]
    assert json.loads(json.dumps([hit.columns for hit in hits], allow_nan=False))
    assert fresh.get(["b"])[0].columns["price"] is None
    assert np.isfinite(fresh.range("price")).all()


@pytest.mark.parametrize("name", ["a" * 20_000, "é" * 600, "", "\ud800"])
def test_what_no_document_can_be_called_is_refused_and_not_repeated_whole(index, name):
    for act in (index.get, index.missing, lambda names: index.search_examples(1, like=names)):
        with pytest.raises(CocoaError) as caught:
            act([name])
        assert caught.value.code == "E_INDEX_ID"
        assert len(caught.value.message) < 100


def test_the_index_is_held_against_the_embeddings_which_stay_the_truth(made, tmp_path):
    index = Index.build(made, tmp_path / "index")
    assert index.verify(made).ok
    index.delete(["r7"])
    index.upsert(rows(["r8", "more"], 77))
    assert index.verify().ok
    assert index.verify(made).damages == [
        "'r7': not in the index",
        "'r8': another vector in the index",
        "'more': not in the embeddings",
    ]
    assert Index.build(made, tmp_path / "index", replace=True).verify(made).ok


def test_a_place_that_is_taken_is_not_overwritten(made, built, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    for place, how in ((tmp_path / "notes", {"replace": True}), (built.uri, {})):
        with pytest.raises(CocoaError) as caught:
            Index.build(made, place, **how)
        assert caught.value.code == "E_INDEX_EXISTS"
    assert (tmp_path / "notes" / "diary.txt").read_text() == "mine"


def test_a_folder_with_an_id_twice_is_refused_and_nothing_is_left(tmp_path):
    made = embeddings(tmp_path / "e", rows(["a", "b", "c", "a"]))
    with pytest.raises(CocoaError, match="'a' stands twice"):
        Index.build(made, tmp_path / "index")
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


@pytest.mark.parametrize(
    "uri",
    ["milvus://host/name", "milvus://host:1/na-me", "milvus://a b:1/n", "milvus://h:1/n?x", "http://h/x", "s3://b"],
)
def test_an_address_that_is_none_is_refused(uri):
    with pytest.raises(CocoaError) as caught:
        Index.open(uri)
    assert caught.value.code == "E_USAGE_URI"


def test_a_folder_that_is_no_index_is_refused(tmp_path):
    with pytest.raises(CocoaError) as caught:
        Index.open(tmp_path)
    assert caught.value.code == "E_INDEX_FILE"


def test_a_folder_of_embeddings_is_only_read(exact):
    for act in (lambda: exact.add(rows(["x"])), lambda: exact.delete(["r1"])):
        with pytest.raises(CocoaError) as caught:
            act()
        assert caught.value.code == "E_USAGE_READ_ONLY"
    with pytest.raises(CocoaError):
        exact.repair()
    assert exact.verify().ok


@pytest.mark.parametrize(("package", "uri"), [("lancedb", None), ("pymilvus", "milvus://127.0.0.1:1/x")])
def test_a_missing_package_says_what_to_install(built, monkeypatch, package, uri):
    def without(name, *rest):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(name)
        return import_module(name, *rest)

    monkeypatch.setattr("cocoa.corpus.stores.connecting.import_module", without)
    with pytest.raises(CocoaError, match=r"pip install 'cocoa-embeddings\[") as caught:
        Index.open(uri or built.uri)
    assert caught.value.code == "E_USAGE_EXTRA"


def test_a_server_that_is_not_there_is_an_error_with_a_code(monkeypatch):
    monkeypatch.setattr("cocoa.corpus.stores.milvus._PATIENCE", 1)
    with pytest.raises(CocoaError) as caught:
        Index.open("milvus://127.0.0.1:9/x")
    assert caught.value.code == "E_INDEX_SERVER"


def test_the_approximate_index_measures_its_recall_and_keeps_the_number(tmp_path):
    centres = unit(30, 1, 16)
    vectors = centres[np.arange(1500) % 30] + 0.3 * unit(1500, 2, 16)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    names = [f"r{number}" for number in range(1500)]
    source = rows(names, dimensions=16, columns=False)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=source.table.schema.field("vector").type)
    made = embeddings(
        tmp_path / "e",
        Rows(source.identity, source.table.set_column(1, source.table.schema.field(1), column)),
        columns=False,
    )
    told = []
    index = Index.build(made, tmp_path / "index", exact_rows=1000, say=told.append)
    kept = index.approximate
    assert kept["recall_at_10"] >= 0.98
    assert kept["recall_at_10"] == min(kept["tried"][str(kept["width"])])
    assert any(f"{kept['recall_at_10']:.3f}" in line for line in told)
    exact = Index.open(made.folder)
    assert exact.approximate is None
    queries = vectors[::50] + 0.1 * unit(30, 3, 16)
    shares = [
        len({hit.id for hit in one} & {hit.id for hit in other}) / 10
        for one, other in zip(index.search_vectors(queries), exact.search_vectors(queries), strict=True)
    ]
    assert np.mean(shares) >= 0.95
    # Under a filter that few rows pass nothing is missed, and rows that came later are found.
    few = {"column": "id", "op": "in", "value": names[::40]}
    for one, other in zip(
        index.search_vectors(queries, 20, filter=few), exact.search_vectors(queries, 20, filter=few), strict=True
    ):
        assert [hit.id for hit in one] == [hit.id for hit in other]
    index.upsert(Rows(source.identity, rows(["late"], 5, dimensions=16, columns=False).table))
    [late] = index.get(["late"])
    assert index.search_vectors(late.vector[None], 1)[0][0].id == "late"
    assert Index.open(tmp_path / "index").approximate == kept
