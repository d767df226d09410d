"""`GET /` and `GET /page/...`: the search page, and the routes that it needs; its files come from the package alone."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

from cocoa.serving import catalogue, documents, explaining
from cocoa.serving.problems import RequestError
from cocoa.serving.service import needs

router = APIRouter()
for _part in (catalogue, documents, explaining):
    router.include_router(_part.router)
_files = APIRouter(include_in_schema=False, dependencies=[needs("search")])

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        # No string can become markup or code, whatever a document's text says.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Asked for again each time and answered with 304: after an update nobody has half of the old page.
    "cache-control": "private, no-cache",
}


@_files.get("/")
async def page(request: Request) -> Response:
    """The search page."""
    return _answer(request, "index.html")


@_files.get("/page/{name}")
async def page_file(name: str, request: Request) -> Response:
    """A style sheet, script or drawing of the search page."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    if name not in _page_files():
        raise RequestError("E_REQUEST_ROUTE", "there is nothing at this path", status=404)
    content, media_type, tag = _page_files()[name]
    headers = {**_HEADERS, "etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


@cache
def _page_files() -> dict[str, tuple[bytes, str, str]]:
    """Name -> content, media type and tag: a table made once, so that no request names a path on the disk."""
    found = {}
    for file in (files("cocoa.serving") / "page").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _MEDIA_TYPES:
            content = file.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
            found[file.name] = (content, _MEDIA_TYPES[suffix], tag)
    return found


router.include_router(_files)
