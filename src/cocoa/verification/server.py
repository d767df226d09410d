"""Vectors by a server with OpenAI's `POST /v1/embeddings`, pictures as data URLs in the body."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from cocoa.errors import ModelError
from cocoa.model.golden import GoldenInput

_SECONDS = 120.0


def ask_server(url: str, api_key: str | None) -> Callable[[Sequence[GoldenInput]], NDArray[np.float32]]:
    """Returns what embeds inputs on the server at `url` (with or without `/v1`), by the first model that it names.

    Raises `E_MODEL_SERVER` if it cannot be reached, refuses, or answers with something else.
    """
    base = url.rstrip("/").removesuffix("/v1") + "/v1"
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    listed = _answer("GET", f"{base}/models", headers, None)
    try:
        name = str(listed["data"][0]["id"])
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError("E_MODEL_SERVER", "names no model under /v1/models", where=base) from error

    def ask(inputs: Sequence[GoldenInput]) -> NDArray[np.float32]:
        body = {"model": name, "input": [_body(one) for one in inputs], "encoding_format": "float"}
        answer = _answer("POST", f"{base}/embeddings", headers, body)
        try:
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            return np.array([row["embedding"] for row in rows], np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("E_MODEL_SERVER", "the answer holds no embeddings", where=base) from error

    return ask


def _body(one: GoldenInput) -> str | dict[str, Any]:
    urls = one.picture_urls
    if not urls:
        return {"text": one.text}
    pictures: dict[str, Any] = {"image": urls[0]} if len(urls) == 1 else {"images": urls}
    return {"text": one.text, **pictures} if one.text else pictures


def _answer(method: str, url: str, headers: dict[str, str], body: dict[str, Any] | None) -> Any:
    try:
        answer = httpx2.request(method, url, headers=headers, json=body, timeout=_SECONDS)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ModelError("E_MODEL_SERVER", f"cannot be reached: {error}", where=url) from error
    if answer.status_code != 200:
        raise ModelError("E_MODEL_SERVER", f"answered {answer.status_code}: {answer.text[:300]}", where=url)
    try:
        return answer.json()
    except ValueError as error:
        raise ModelError("E_MODEL_SERVER", "answered with something that is not JSON", where=url) from error
