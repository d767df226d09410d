"""A filter means the same in every store, and nothing that stands in it is more than a value."""

from __future__ import annotations

import json

import pytest
from asking import PAYLOADS, filters
from hypothesis import HealthCheck, given, settings
from indexing import COLUMNS, embeddings, rows, values

from cocoa import CocoaError
from cocoa.corpus.filters import matches, parse_filter
from cocoa.corpus.index import Index
from cocoa.corpus.stores.expressions import to_milvus, to_sql
from cocoa.corpus.stores.rows import Card
from cocoa.corpus.where import read_where

NAMES = [f"r{number}" for number in range(60)]
ROWS = [{"id": name, "text": f"text of {name}", "image": "", **values(n)} for n, name in enumerate(NAMES)]


def passing(condition: dict) -> set[str]:
    """Returns the ids of the rows that pass, by the reference."""
    read = parse_filter(condition, COLUMNS)
    return {row["id"] for row in ROWS if matches(read, row)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters")
    made = embeddings(folder / "embeddings", rows(NAMES))
    return [Index.open(folder / "embeddings"), Index.build(made, folder / "index")]


@pytest.fixture(scope="module")
def query():
    return rows(["q"], seed=9).table["vector"].combine_chunks().flatten().to_numpy().reshape(1, -1)


def found(index, query, condition):
    return {hit.id for hit in index.search_vectors(query, len(NAMES), filter=condition)[0]}


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda text: ascii(text)[:24])
def test_a_hostile_text_is_a_text_like_any_other(stores, query, payload):
    for op in ("=", "!=", "<", "contains"):
        condition = {"or": [{"column": "kind", "op": op, "value": payload}, {"column": "id", "op": "=", "value": "r0"}]}
        for index in stores:
            assert found(index, query, condition) == passing(condition)
            assert index.count(condition) == len(passing(condition))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters())
def test_random_filters_pass_the_rows_that_the_reference_passes(stores, query, condition):
    for index in stores:
        assert found(index, query, condition) == passing(condition)


def test_a_comparison_with_a_missing_value_is_false_and_its_opposite_true():
    missing = {row["id"] for row in ROWS if row["year"] is None}
    equal = {"column": "year", "op": "=", "value": 2003}
    assert missing
    assert not missing & passing(equal)
    assert not missing & passing({"column": "year", "op": "!=", "value": 2003})
    assert missing <= passing({"not": equal})
    assert passing({"column": "year", "op": "is_null"}) == missing


@pytest.mark.parametrize(
    ("condition", "where"),
    [
        ("kind = 'cat'", "filter"),
        ([], "filter"),
        ({}, "filter"),
        ({"and": []}, "filter.and"),
        ({"and": "kind"}, "filter.and"),
        ({"and": [], "or": []}, "filter"),
        ({"column": "kind", "op": "=", "value": "cat", "sql": "1=1"}, "filter"),
        ({"column": "kind) OR (1=1", "op": "=", "value": "cat"}, "filter.column"),
        ({"column": "column_0", "op": "=", "value": "cat"}, "filter.column"),
        ({"column": "vector", "op": "is_null"}, "filter.column"),
        ({"column": ["kind"], "op": "=", "value": "cat"}, "filter.column"),
        ({"column": "kind", "op": "= 'x' OR", "value": "cat"}, "filter"),
        ({"column": "kind", "op": ["="], "value": "cat"}, "filter"),
        ({"column": "kind", "op": "=", "value": 3}, "filter.value"),
        ({"column": "kind", "op": "=", "value": None}, "filter.value"),
        ({"column": "kind", "op": "=", "value": "\ud800"}, "filter.value"),
        ({"column": "kind", "op": "=", "value": "a\0b"}, "filter.value"),
        ({"column": "kind", "op": "=", "value": "x" * 10_001}, "filter.value"),
        ({"column": "kind", "op": "contains", "value": ""}, "filter"),
        ({"column": "year", "op": "=", "value": True}, "filter.value"),
        ({"column": "year", "op": "=", "value": 2.5}, "filter.value"),
        ({"column": "year", "op": "=", "value": 2**63}, "filter.value"),
        ({"column": "year", "op": "=", "value": "2003"}, "filter.value"),
        ({"column": "year", "op": "contains", "value": 2}, "filter"),
        ({"column": "price", "op": "<", "value": float("nan")}, "filter.value"),
        ({"column": "price", "op": "<", "value": float("inf")}, "filter.value"),
        ({"column": "sold", "op": "<", "value": True}, "filter"),
        ({"column": "sold", "op": "=", "value": 1}, "filter.value"),
        ({"column": "kind", "op": "in", "value": "cat"}, "filter.value"),
        ({"column": "kind", "op": "in", "value": []}, "filter.value"),
        ({"column": "kind", "op": "in", "value": ["a"] * 1001}, "filter.value"),
        ({"column": "kind", "op": "is_null", "value": 1}, "filter"),
        ({"or": [{"not": {"column": "kind", "op": "=", "value": 3}}]}, "filter.or[0].not.value"),
        ({"or": [{"column": "kind", "op": "is_null"}] * 257}, "filter.or[255]"),
    ],
)
def test_what_is_no_filter_is_refused_and_its_place_named(condition, where):
    with pytest.raises(CocoaError) as caught:
        parse_filter(condition, COLUMNS)
    assert (caught.value.code, caught.value.where) == ("E_USAGE_FILTER", where)


@pytest.mark.parametrize("depth", [17, 1000, 100_000])
def test_a_filter_nested_too_deep_is_refused(depth):
    condition = {"column": "kind", "op": "is_null"}
    for _ in range(depth):
        condition = {"not": condition}
    with pytest.raises(CocoaError, match="nested more than 16 deep"):
        parse_filter(condition, COLUMNS)
    text = '{"not":' * depth + '{"column":"kind","op":"is_null"}' + "}" * depth
    with pytest.raises(CocoaError) as caught:
        parse_filter(read_where(text), COLUMNS)
    assert caught.value.code == "E_USAGE_FILTER"
    # Nothing of Python's own recursion may be left to take down: the chain is taken apart by hand.
    while "not" in condition:
        condition = condition.pop("not")


def test_a_filter_at_the_limits_is_taken():
    condition = {"column": "kind", "op": "in", "value": ["x" * 10_000] * 1000}
    for _ in range(15):
        condition = {"not": condition}
    parse_filter(condition, COLUMNS)
    parse_filter({"or": [{"column": "year", "op": "=", "value": 2**63 - 1}] * 255}, COLUMNS)


def test_sql_and_milvus_say_names_of_ours_and_escaped_values_only():
    condition = parse_filter(
        {
            "and": [
                {"column": "a'b", "op": "=", "value": "x'y\"\\é😀"},
                {"not": {"column": "n", "op": "<", "value": -2}},
            ]
        },
        {"a'b": "string", "n": "int"},
    )
    fields = {"a'b": "column_0", "n": "column_1"}
    assert to_sql(condition, fields) == (
        "((column_0 IS NOT NULL AND column_0 = 'x''y\"\\é😀') AND (NOT (column_1 IS NOT NULL AND column_1 < -2)))"
    )
    assert to_milvus(condition, fields, can_contain=True) == (
        '((column_0_missing == false && column_0 == "x\'y\\"\\\\\\u00e9\\U0001f600")'
        " && (not (column_1_missing == false && column_1 < -2)))"
    )


def test_milvus_asks_for_missing_values_also_of_a_column_that_is_named_as_its_field():
    fields = Card({}, "", {"column_0": "int"}).fields
    for op, more, said in (
        ("=", {"value": 0}, "(column_0_missing == false && column_0 == 0)"),
        ("is_null", {}, "(column_0_missing == true)"),
    ):
        condition = parse_filter({"column": "column_0", "op": op, **more}, {"column_0": "int"})
        assert to_milvus(condition, fields, can_contain=True) == said
    assert to_milvus(parse_filter({"column": "id", "op": "is_null"}, {}), fields, can_contain=True) == "(place < 0)"
    built_in = parse_filter({"column": "id", "op": "=", "value": "a"}, {})
    assert to_milvus(built_in, fields, can_contain=True) == '(id == "a")'


def test_an_old_milvus_server_refuses_contains_rather_than_guess():
    condition = parse_filter({"column": "kind", "op": "contains", "value": "50%_\\"}, COLUMNS)
    with pytest.raises(CocoaError, match=r"2\.5"):
        to_milvus(condition, {"kind": "column_0"}, can_contain=False)
    said = to_milvus(condition, {"kind": "column_0"}, can_contain=True)
    assert said == r'(column_0_missing == false && column_0 like "%50\\%\\_\\\\%")'


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("price < 3", {"column": "price", "op": "<", "value": 3}),
        ("price>=-1.5e2", {"column": "price", "op": ">=", "value": -150.0}),
        ("kind = 'owl\\'s'", {"column": "kind", "op": "=", "value": "owl's"}),
        ('kind = "a \\"b\\" \\\\"', {"column": "kind", "op": "=", "value": 'a "b" \\'}),
        ("kind in ('a', \"b\")", {"column": "kind", "op": "in", "value": ["a", "b"]}),
        ("`the kind` contains 'a and b'", {"column": "the kind", "op": "contains", "value": "a and b"}),
        ("year IS NULL", {"column": "year", "op": "is_null"}),
        ("year is not null", {"not": {"column": "year", "op": "is_null"}}),
        ("sold = TRUE", {"column": "sold", "op": "=", "value": True}),
        (
            "sold = true or not (year > 2000 and year != 2005) and kind is null",
            {
                "or": [
                    {"column": "sold", "op": "=", "value": True},
                    {
                        "and": [
                            {
                                "not": {
                                    "and": [
                                        {"column": "year", "op": ">", "value": 2000},
                                        {"column": "year", "op": "!=", "value": 2005},
                                    ]
                                }
                            },
                            {"column": "kind", "op": "is_null"},
                        ]
                    },
                ]
            },
        ),
    ],
)
def test_the_small_language_says_what_the_json_says(text, condition):
    assert read_where(text) == condition
    assert read_where(json.dumps(condition)) == condition


@pytest.mark.parametrize(
    "text",
    ["", "price", "price <", "price < cat", "price < 3 4", "(price < 3", "price < 3)", "kind = 'cat", "price = 03",
     "price ; 3", "kind in ()", "kind in 'a'", "and", "not", "year is 3", "3 < price", "{", "not " * 50 + "a = 1",
     "price < \u0663", "price < 1\u0663", "price < 1.\uff15", "price < " + "1" * 5000],
)  # fmt: skip
def test_what_the_small_language_does_not_say_is_refused(text):
    with pytest.raises(CocoaError) as caught:
        read_where(text)
    assert caught.value.code == "E_USAGE_FILTER"
