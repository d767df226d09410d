"""Texts and bodies of requests that are odd, wrong or too much."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from bad_input import BadInput
from picture_files import NOISE, encode

CONTROL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|mask|>", "<think>", "</think>", "<EOS>",
)  # fmt: skip
"""What the tokenizers of Qwen-VL and this package's own use for control."""


def text(name: str, words: str, code: str | None = None, *, images: int = 0, **more: Any) -> BadInput:
    item = {"text": words} | ({"images": [encode(NOISE, "PNG")] * images} if images else {})
    return BadInput(name, "text", lambda _: item, code, **more)


TEXTS = [
    text("empty", "", "E_DATA_EMPTY"),
    text("whitespace", " \t\n", "E_DATA_EMPTY", or_accepted=True),
    text("nul", "a\0b"),
    text("lone-surrogate", "a\ud800b", "E_DATA_TEXT"),
    text("byte-order-mark", "\ufeffa cat"),
    text("10-megabytes", "word " * 2_000_000, "E_DATA_TOO_LONG", or_accepted=True),
    text("combining-marks", "a" + "\u0301" * 100_000, "E_DATA_TOO_LONG", or_accepted=True),
    text("right-to-left", "\u202etac a\u202c"),
    *(text(f"token-{token}", token) for token in CONTROL_TOKENS),
    text("tokens-in-pairs", "".join(first + second for first in CONTROL_TOKENS[:9] for second in CONTROL_TOKENS)),
    text("token-1000-times", "<|image_pad|>" * 1000),
    text("picture-not-named", "a cat", images=1),
    text("picture-named-twice", "<|image_1|> and <|image_1|>", "E_DATA_PLACEHOLDER", images=1),
    text("second-picture-not-there", "<|image_1|> and <|image_2|>", "E_DATA_PLACEHOLDER", images=1),
    text("second-picture-not-named", "<|image_1|>", images=2),
    text("placeholder-without-picture", "<|image_1|>"),
]


def body(name: str, content: Any, *statuses: int, code: str | None = "E_REQUEST", **more: Any) -> BadInput:
    """A body that must be refused, given as bytes, or as what makes them."""
    make: Callable[[Any], bytes] = (lambda _: content()) if callable(content) else (lambda _: content)
    return BadInput(name, "json", make, code, statuses=statuses or (400, 413, 422), **more)


def asks(value: Any, **more: Any) -> bytes:
    return json.dumps({"model": "cocoa", "input": value, **more}).encode()


def picture_url(data: str, kind: str = "image/png") -> bytes:
    return asks([{"image": f"data:{kind};base64,{data}"}])


PICTURE = base64.b64encode(encode(NOISE, "PNG")).decode()

BODIES = [
    body("input-is-a-number", asks(7)),
    body("input-is-a-boolean", asks(True)),
    body("input-is-null", asks(None)),
    body("input-is-an-empty-list", asks([])),
    body("input-has-a-list-in-a-list-in-a-list", asks([[["a"]]])),
    body("input-has-null", asks(["a", None])),
    body("input-is-an-object-of-nothing", asks([{}])),
    body("field-missing", b'{"model": "cocoa"}'),
    body("field-unknown", asks("a cat", unknown_field=1), or_accepted=True),
    body("field-twice", b'{"model": "cocoa", "input": "a", "input": "b"}', or_accepted=True),
    body("dimensions-nan", b'{"model": "cocoa", "input": "a", "dimensions": NaN}'),
    body("dimensions-infinite", b'{"model": "cocoa", "input": "a", "dimensions": Infinity}'),
    body("dimensions-negative", asks("a", dimensions=-1)),
    body("dimensions-boolean", asks("a", dimensions=True)),
    body("dimensions-1e308", b'{"model": "cocoa", "input": "a", "dimensions": 1e308}'),
    body("dimensions-a-million-digits", b'{"model": "cocoa", "input": "a", "dimensions": ' + b"9" * 1_000_000 + b"}"),
    body("depth-10000", b'{"model": "cocoa", "input": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    body("key-of-a-megabyte", b'{"input": "a", "model": "cocoa", "' + b"k" * 1_000_000 + b'": 1}', or_accepted=True),
    body("cut-short", b'{"model": "cocoa", "input": ["a ca'),
    body("no-json", b"input=a+cat"),
    body("empty", b""),
    body("lone-surrogate", b'{"model": "cocoa", "input": "a\\ud800b"}', code="E_"),
    body("content-type", asks("a cat"), 400, 415, 422, content_type="text/plain", or_accepted=True),
    body("charset", '{"model": "cocoa", "input": "a c\xe4t"}'.encode("utf-16"), 400, 415, 422),
    body("not-utf-8", b'{"model": "cocoa", "input": "a \xff cat"}'),
    body("a-million-items", lambda: asks(["a"] * 1_000_000), 400, 413, 422),
    body(
        "data-url-in-a-data-url",
        picture_url(base64.b64encode(b"data:image/png;base64," + PICTURE.encode()).decode()),
        code="E_IMAGE_",
    ),
    body("base64-padding", picture_url(PICTURE.rstrip("=")[:-1]), code="E_IMAGE_", or_accepted=True),
    body("base64-not", picture_url("*" * 100), code="E_IMAGE_"),
    body("base64-whitespace", picture_url(" \n".join((PICTURE[:40], PICTURE[40:]))), code=None),
    body("base64-for-urls", picture_url(PICTURE.replace("+", "-").replace("/", "_")), code=None),
    body("mime-lies", picture_url(PICTURE, "image/jpeg"), code=None),
    body("mime-is-text", picture_url(PICTURE, "text/html"), code="E_IMAGE_", or_accepted=True),
]
