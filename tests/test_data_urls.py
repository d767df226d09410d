"""Data URLs are read as browsers read them, and never cost more than they may."""

from __future__ import annotations

import base64
import re
import tracemalloc

import pytest

from cocoa.errors import ImageError
from cocoa.images import ImageLimits, data_url_bytes
from picture_files import NOISE, encode

PICTURE = encode(NOISE, "PNG")
LETTERS = base64.b64encode(PICTURE).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{LETTERS}",
        f"DATA:Image/PNG;name=a.png;BASE64,{LETTERS}",
        f"data:;base64,{LETTERS}",
        f"data:application/octet-stream;base64,{LETTERS}",
        f"data:image/jpeg;base64,{LETTERS}",
        f"data:image/png;base64,{LETTERS.rstrip('=')}",
        f"data:image/png;base64,{LETTERS.replace('+', '-').replace('/', '_')}",
        "data:image/png;base64," + LETTERS.replace("+", "%2B").replace("=", "%3D"),
        "data:image/png;base64," + "\r\n".join(re.findall(".{1,76}", LETTERS)) + "\n",
    ],
)
def test_the_same_bytes_in_many_spellings(url: str) -> None:
    assert data_url_bytes(url) == PICTURE


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "E_IMAGE_URL"),
        ("a.png", "E_IMAGE_URL"),
        ("https://example.org/a,b", "E_IMAGE_URL"),
        ("data:image/png;base64", "E_IMAGE_URL"),
        (f"data:image/png,{LETTERS}", "E_IMAGE_URL"),
        ("data:image/png;base64,****", "E_IMAGE_URL"),
        ("data:image/png;base64,A", "E_IMAGE_URL"),
        ("data:image/png;base64,AA=AA", "E_IMAGE_URL"),
        ("data:image/png;base64,\u0410AAA", "E_IMAGE_URL"),
        (f"data:image/png;{'a' * 1000};base64,{LETTERS}", "E_IMAGE_URL"),
        (f"data:text/html;base64,{LETTERS}", "E_IMAGE_FORMAT"),
    ],
)
def test_what_is_no_picture_in_a_url_has_its_code(url: str, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        data_url_bytes(url, where="request 1")
    assert caught.value.code == code
    assert LETTERS[:20] not in str(caught.value)
    assert caught.value.where == "request 1"


def test_the_limit_holds_at_the_edge_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"data:image/png;base64,{LETTERS}"
    for most in (len(PICTURE) + 1, len(PICTURE)):
        assert data_url_bytes(url, ImageLimits(max_bytes=most)) == PICTURE
    monkeypatch.setattr(base64, "b64decode", None)
    with pytest.raises(ImageError, match="E_IMAGE_TOO_LARGE"):
        data_url_bytes(url, ImageLimits(max_bytes=len(PICTURE) - 1))


def test_a_url_far_beyond_the_limit_is_not_even_copied() -> None:
    url = "data:image/png;base64," + "A" * 10_000_000
    tracemalloc.start()
    with pytest.raises(ImageError, match="E_IMAGE_TOO_LARGE"):
        data_url_bytes(url, ImageLimits(max_bytes=1_000_000))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
