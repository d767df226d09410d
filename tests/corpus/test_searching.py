"""`cocoa index` and `cocoa search`: build, look after, ask; a table, JSON, or a page with the pictures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import weakref
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
        (["search", "INDEX", "--text", "x", "--where", ""], "E_USAGE_FILTER"),
        (["search", "INDEX", "--text", "x", "-k", "0"], "E_USAGE_K"),
        (["search", "INDEX", "--like", "d1", "--unlike", "d2", "--weight", "nan"], "E_USAGE_EXAMPLES"),
        (["index", "INDEX"], "E_USAGE_INDEX"),
        (["index", "INDEX", "--verify", "--repair"], "E_USAGE_INDEX"),
        (["index", "INDEX", "--verify", "--replace"], "E_USAGE_INDEX"),
        (["index", "INDEX", "--optimize", "--against", "x"], "E_USAGE_INDEX"),
        (["index", "EMBEDDINGS", "--optimize"], "E_USAGE_OPTIMIZE"),
        (["index", "EMBEDDINGS", "--repair"], "E_USAGE_REPAIR"),
        (["index", "x", "--out", "y", "--add", "--upsert"], "E_USAGE_INDEX"),
    ],
)
def test_wrong_use_exits_with_2(cocoa, home, words, code):
    exit_code, _, err = cocoa(*(home / word.lower() if word in ("INDEX", "EMBEDDINGS") else word for word in words))
    assert exit_code == 2
    assert code in err


def test_a_terminal_shows_the_control_characters_of_documents_and_obeys_none(cocoa, home, tmp_path):
    index = Index.create(tmp_path / "index", Index.open(home / "index").identity, {"kind": "string"})
    table = rows(["a", "b\x1b[2J"], dimensions=index.dimensions, columns=False).table
    table = table.set_column(table.schema.get_field_index("text"), "text", [["a", "one\r\ntwo\x9b31m [bold]three"]])
    index.add(Rows(index.identity, table.append_column("kind", [["x", "\x07\x7f"]])))
    out = cocoa("search", index.uri, "--like", "a")[1]
    err = cocoa("search", index.uri, "--like", "none\x1b]0;me\x07")[2]
    said = cocoa("search", index.uri, "--like", "a", "--json")[1]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err + said)
    assert {"b\\x1b[2J", "two\\x9b31m", "[bold]three", "\\x07\\x7f"} <= set(out.split())
    assert json.loads(said)[0]["text"] == "one\r\ntwo\x9b31m [bold]three"


@pytest.fixture(scope="module")
def foreign(home, tmp_path_factory):
    """An index whose documents say what ASCII has no letters for."""
    index = Index.create(tmp_path_factory.mktemp("foreign") / "index", Index.open(home / "index").identity, {})
    table = rows(["a", "b"], dimensions=index.dimensions, columns=False).table
    table = table.set_column(table.schema.get_field_index("text"), "text", [["a", "żółw 🐢"]])
    index.add(Rows(index.identity, table))
    return index.uri


def test_a_terminal_without_the_letters_gets_escapes_and_a_program_gets_utf_8(foreign):
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "200"}

    def said(*words):
        command = [sys.executable, "-m", "cocoa", "search", foreign, "--like", "a", *words]
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    assert rb"\u017c\xf3\u0142w \U0001f422" in said()
    content = said("--json")
    assert "żółw 🐢" in content.decode()
    assert json.loads(content)[0]["text"] == "żółw 🐢"


def test_an_output_that_is_closed_is_said_not_a_traceback(cocoa, foreign, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    code, _, err = cocoa("search", foreign, "--like", "a", "--json")
    assert (code, err) == (1, "error: the output is closed [E_SYSTEM]\n")


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["search", "INDEX", "--like", "\udcff"], "E_INDEX_ID", 1),
        (["index", "INDEX", "--delete", "\udcff"], "E_INDEX_ID", 1),
        (["search", "INDEX\udcff", "--like", "d0"], "E_USAGE_OUT", 2),
        (["index", "EMBEDDINGS", "--out", "INDEX\udcff"], "E_USAGE_OUT", 2),
    ],
)
def test_a_name_that_is_not_utf8_is_refused_and_no_damage(cocoa, home, words, code, exit_code):
    places = {"INDEX": str(home / "index"), "EMBEDDINGS": str(home / "embeddings")}
    given = [re.sub("INDEX|EMBEDDINGS", lambda found: places[found[0]], word) for word in words]
    told, _, err = cocoa(*given)
    assert (told, f"[{code}]" in err) == (exit_code, True), err


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


def test_a_page_holds_one_picture_at_its_full_size_at_a_time(cocoa, home, tmp_path, picture, monkeypatch):
    index = Index.create(tmp_path / "index", Index.open(home / "index").identity, {})
    table = rows(["a", "b", "c"], dimensions=index.dimensions, columns=False).table
    places = [str(tmp_path / f"{number}.png") for number in range(3)]
    for number, place in enumerate(places):
        picture(600, 500, number).save(place)
    index.add(Rows(index.identity, table.set_column(table.schema.get_field_index("image"), "image", [places])))
    opened, held = [], []

    def opening(place):
        held.append(sum(image() is not None for image in opened))
        image = open_picture(place)
        opened.append(weakref.ref(image))
        return image

    monkeypatch.setattr("cocoa.corpus.found.open_picture", opening)
    page = tmp_path / "page.html"
    assert cocoa("search", index.uri, "--like", "a", "--html", page)[0] == 0
    assert held == [0, 0, 0]
    # The place that a picture takes on the page is still that of its full size.
    assert page.read_text().count('width="600" height="500"') == 3


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
    for place in (
        "none.png",
        "a.zip!none.png",
        "a!b.tar!none.png",
        "a!b.tar!folder",
        "none.tar!x",
        "x" * 300,
        "x" * 300 + "!x",
    ):
        with pytest.raises(ImageError):
            open_picture(str(tmp_path / place))
