"""`cocoa index` and `cocoa search`: build, look after, ask; a table, JSON, or a page with the pictures."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zipfile

import pytest
from indexing import rows

from cocoa import Embedder, Index
from cocoa.cli import main
from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.index import Rows
from cocoa.corpus.job import embed_corpus
from cocoa.corpus.pictures import open_picture
from cocoa.errors import ImageError
from cocoa.model import EmbeddingModel

TEXTS = ["a red apple", "an owl", 'a "blue" <bird>', "two cats", "green grass"]


@pytest.fixture(scope="module")
def home(tiny, picture, tmp_path_factory):
    """A model, embeddings of pictures with columns, and an index of them."""
    home = tmp_path_factory.mktemp("home")
    EmbeddingModel(tiny(), max_tokens=128).save(home / "model")
    lines = []
    for number, text in enumerate(TEXTS):
        picture(40 + number, 50, number).save(home / f"{number}.png")
        lines.append(
            {"id": f"d{number}", "text": text, "image": f"{number}.png", "price": number / 2, "kind": "x" * number}
        )
    (home / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    made = embed_corpus(Embedder.load(home / "model"), home / "rows.jsonl", home / "embeddings")
    Index.build(made, home / "index")
    return home


@pytest.fixture
def cocoa(monkeypatch, capsys):
    """Runs a command in this process; returns its exit code, what it wrote and what it complained of."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cocoa", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_an_index_is_built_looked_after_and_asked(cocoa, home, tmp_path):
    place = tmp_path / "index"
    code, out, _ = cocoa("index", home / "embeddings", "--out", place)
    assert code == 0
    assert "5 documents" in out
    code, out, _ = cocoa("search", place, "--text", "a red apple", "-k", 2, "--json")
    hits = json.loads(out)
    assert code == 0
    assert len(hits) == 2
    assert set(hits[0]) == {"id", "score", "text", "image", "columns"}
    assert cocoa("index", home / "embeddings", "--out", place)[0] == 1
    assert cocoa("index", home / "embeddings", "--out", place, "--add")[0] == 1
    assert cocoa("index", home / "embeddings", "--out", place, "--upsert")[0] == 0
    code, said, _ = cocoa("index", place, "--delete", "d1", "--delete", "d9")
    assert (code, said.splitlines()) == (0, ["1 document removed, 4 left", "no such document: 'd9'"])
    code, out, err = cocoa("index", place, "--verify", "--against", home / "embeddings")
    assert code == 1
    assert "'d1': not in the index" in out
    assert "E_INDEX_DAMAGED" in err
    assert cocoa("index", home / "embeddings", "--out", place, "--replace")[0] == 0
    assert cocoa("index", place, "--verify", "--against", home / "embeddings")[0] == 0
    assert cocoa("index", place, "--optimize")[0] == 0
    assert "nothing to repair" in cocoa("index", place, "--repair")[1]


def test_a_damaged_index_exits_with_1_and_is_repaired(cocoa, home, tmp_path):
    place = tmp_path / "index"
    index = Index.build(Embeddings.open(home / "embeddings"), place)
    index.delete(["d1"])
    newest = sorted((place / "commits").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-20])
    code, _, err = cocoa("search", place, "--like", "d0")
    assert code == 0
    assert "fell back to commit 1" in err
    code, out, _ = cocoa("index", place, "--verify")
    assert code == 1
    assert newest.name in out
    assert cocoa("search", place, "--like", "d0")[0] == 1
    assert "went back to commit 1" in cocoa("index", place, "--repair")[1]
    code, _, err = cocoa("search", place, "--like", "d0")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("place", ["embeddings", "index"])
def test_text_picture_and_examples_are_one_query(cocoa, home, place):
    code, out, _ = cocoa(
        "search", home / place, "--text", "owl", "--image", home / "1.png", "--like", "d2", "--unlike", "d3",
        "--where", "price <= 1 and not kind is null", "--json",
    )  # fmt: skip
    index, embedder = Index.open(home / place), Embedder.load(home / "model")
    vectors = embedder.encode_query([{"text": "owl", "image": home / "1.png"}])
    condition = {"column": "price", "op": "<=", "value": 1}
    expected = index.search_examples(10, vectors=vectors, like=["d2"], unlike=["d3"], filter=condition)
    assert code == 0
    assert [hit["id"] for hit in json.loads(out)] == [hit.id for hit in expected]
    assert {hit.id for hit in expected} == {"d0", "d1"}


def test_a_table_shows_the_columns(cocoa, home):
    code, out, _ = cocoa("search", home / "index", "--like", "d4", "-k", 1)
    assert code == 0
    assert "price" in out
    assert re.search(r"1 .*d\d", out)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["search", "INDEX"], "E_USAGE_SEARCH"),
        (["search", "INDEX", "--text", "x", "--where", "price < cat"], "E_USAGE_FILTER"),
        (["search", "INDEX", "--text", "x", "--where", "colour = 'red'"], "E_USAGE_FILTER"),
        (["search", "INDEX", "--text", "x", "-k", "0"], "E_USAGE_K"),
        (["index", "INDEX"], "E_USAGE_INDEX"),
        (["index", "INDEX", "--verify", "--repair"], "E_USAGE_INDEX"),
        (["index", "INDEX", "--verify", "--replace"], "E_USAGE_INDEX"),
        (["index", "INDEX", "--optimize", "--against", "x"], "E_USAGE_INDEX"),
        (["index", "x", "--out", "y", "--add", "--upsert"], "E_USAGE_INDEX"),
    ],
)
def test_wrong_use_exits_with_2(cocoa, home, words, code):
    exit_code, _, err = cocoa(*(home / "index" if word == "INDEX" else word for word in words))
    assert exit_code == 2
    assert code in err


def test_another_model_is_refused_before_anything_is_searched(cocoa, home, tiny, tmp_path):
    EmbeddingModel(tiny(), layout="causal", max_tokens=128).save(tmp_path / "other")
    code, _, err = cocoa("search", home / "index", "--text", "x", "--model", tmp_path / "other")
    assert code == 1
    assert "attention layout bidirectional and causal" in " ".join(err.split())


def test_the_page_carries_its_pictures_and_escapes_what_documents_say(cocoa, home, tmp_path):
    page = tmp_path / "page.html"
    code, _, err = cocoa(
        "search", home / "index", "--text", "<script>alert(1)</script>", "--image", home / "0.png", "--unlike", "d1",
        "--where", "price < 9", "--html", page,
    )  # fmt: skip
    assert (code, err) == (0, "")
    text = page.read_text()
    assert "<script" not in text
    assert "a &#34;blue&#34; &lt;bird&gt;" in text
    # Four documents, the query's picture and that of the example.
    assert text.count('<img src="data:image/webp;base64,') == 6
    assert not re.findall(r'(?:src|href)="(?!data:)', text)


def test_a_picture_that_is_gone_is_counted_and_said_on_the_page(cocoa, home, tmp_path, picture):
    picture(30, 30, 1).save(tmp_path / "here.png")
    index = Index.create(tmp_path / "index", Index.open(home / "index").identity, {})
    table = rows(["a", "b"], dimensions=index.dimensions, columns=False).table
    place = table.schema.get_field_index("image")
    table = table.set_column(place, "image", [[str(tmp_path / "here.png"), str(tmp_path / "gone.png")]])
    index.add(Rows(index.identity, table))
    code, _, err = cocoa("search", tmp_path / "index", "--like", "a", "--html", tmp_path / "page.html")
    assert code == 0
    assert "1 pictures do not open" in err
    assert "picture does not open" in (tmp_path / "page.html").read_text()


def test_pictures_are_opened_where_they_are(tmp_path, picture):
    whole = picture(20, 30, 1)
    whole.save(tmp_path / "odd!name.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "odd!name.png", "in/odd!name.png")
    with tarfile.open(tmp_path / "a!b.tar", "w") as archive:
        archive.add(tmp_path / "odd!name.png", "in/odd!name.png")
        archive.add(tmp_path, "folder", recursive=False)
    for place in ("odd!name.png", "a.zip!in/odd!name.png", "a!b.tar!in/odd!name.png"):
        assert open_picture(str(tmp_path / place)).tobytes() == whole.tobytes()
    for place in ("none.png", "a.zip!none.png", "a!b.tar!none.png", "a!b.tar!folder", "none.tar!x"):
        with pytest.raises(ImageError):
            open_picture(str(tmp_path / place))
