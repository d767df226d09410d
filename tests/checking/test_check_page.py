"""The page shows every finding with its pictures inside it, and says what people wrote as text, never as markup."""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

from checked_folder import Folder, encoded, photo

from cocoa.checking.check import check_data
from cocoa.checking.page import write_check
from cocoa.report.check_page import check_page, headline, histogram

EVIL = '<script>alert("x")</script><img src="http://evil.example/x.png">'


def page_of(folder: Folder, out: Path, **options) -> tuple[str, dict]:
    write_check(check_data(folder.write(), tasks=folder.tasks, workers=2, **options), out)
    return (out / "check.html").read_text(), json.loads((out / "check.json").read_text())


class Tags(HTMLParser):
    """Every tag with its attributes; a tag that is closed wrongly is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_pictures_are_inside_the_page_and_texts_are_escaped(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.add(f"<|image_1|>\n{EVIL}", EVIL, image="train_1.png", negatives=[EVIL])
    folder.rows.append(folder.rows[-1])
    name = "<b>&.png"
    folder.images[name] = b"no picture"
    folder.add("<|image_1|>\nBroken?", "yes", image=name)
    page, content = page_of(folder, tmp_path / "out")
    tags = Tags(page).tags
    assert EVIL not in page and escape(EVIL, quote=False)[:30] in page.replace("&#34;", '"')
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert sources and all(re.fullmatch(r"data:image/webp;base64,[A-Za-z0-9+/=]+", source or "") for source in sources)
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert {each["code"] for each in content["findings"]} == {"POSITIVE_IS_NEGATIVE", "DUPLICATE_PAIR", "E_IMAGE_OPEN"}
    for finding in content["findings"]:
        assert finding["code"] in page and finding["title"] in page


def test_samples_of_a_leak_stand_side_by_side(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.images["again.jpg"] = encoded(photo(4), "JPEG", quality=70)
    folder.ask("<|image_1|>\nAgain?", "yes", "no", image="again.jpg")
    page, content = page_of(folder, tmp_path / "out")
    [finding] = content["findings"]
    assert finding["code"] == "NEAR_PICTURE"
    example = page[page.index('class="example"') : page.index("</article>")]
    assert example.count("data:image/webp") == 2
    assert "training query" in example and "puzzle: query" in example


def test_paths_are_said_without_the_folder_that_all_share(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.rows.append(folder.rows[0])
    page, _ = page_of(folder, tmp_path / "out")
    assert "shapes.jsonl:13" in page
    assert str(folder.table) not in page


def test_a_page_without_findings_says_so(tmp_path: Path) -> None:
    page, _ = page_of(Folder(tmp_path), tmp_path / "out")
    assert "Nothing found" in page
    assert "the evaluation has nothing of the training data" in page
    assert "All rows and 22 pictures were looked at, and compared with 1 task." in page
    assert page.count("<svg") == 3


def test_a_sample_is_admitted(tmp_path: Path) -> None:
    page, _ = page_of(Folder(tmp_path), tmp_path / "out", sample=4)
    assert "4 of 12 rows of only" in page


def test_a_page_is_made_of_the_list_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.rows.append(folder.rows[0])
    _, content = page_of(folder, tmp_path / "out")
    page = check_page(content, {})
    Tags(page)
    assert "does not open" in page


def test_the_headline_counts_levels():
    findings = [{"level": level} for level in ("error", "warning", "warning", "note")]
    assert headline(findings) == "1 error, 2 warnings and 1 note"
    assert headline([]) == "Nothing found"


def test_a_limit_is_drawn_where_it_is_in_reach():
    bars = {"edges": [0, 10, 20, 30], "counts": [1, 0, 4], "mean": 18.0, "longest": 29}
    near, far = (histogram(bars, title="t", x_label="tokens", limit=limit) for limit in (25, 500))
    assert "max_tokens 25" in near and "max_tokens" not in far
    assert near.count('class="bar"') == 2  # no bar where nothing is
