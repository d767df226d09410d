"""`GET /v1/documents/{key}/image`: the picture of a document, decoded and drawn anew; what a client sees of a hit."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from typing import Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from PIL import Image
from starlette.responses import Response

import cocoa
from cocoa.errors import CocoaError, ImageError
from cocoa.serving.problems import RequestError
from cocoa.serving.served import Served
from cocoa.serving.service import Service, needs, service_of

router = APIRouter(tags=["search"], dependencies=[needs("search")])

_PIXELS = {"small": 384, "large": 1280}
_HEADERS = {
    # Asked for again each time: the index may have been replaced by one with another picture under this id.
    "cache-control": "private, no-cache",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
}


def shown(hit: Any, service: Service, served: Served) -> dict[str, Any]:
    """Returns a hit as JSON shows it; its picture is an address below this server, never a place on the disk."""
    address = f"/v1/documents/{document_key(hit.id)}/image" if hit.image else None
    if address and served is not service.first:
        address += f"?model={quote(served.name, safe='')}"
    return {"id": hit.id, "score": hit.score, "text": hit.text, "image": address, "columns": hit.columns}


def document_key(name: str) -> str:
    """Returns an id as one safe piece of a path: any text may be an id, `..` and `a/b` too."""
    return "_" + base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def id_of(key: str) -> str:
    """Returns the id of a key. Raises `E_REQUEST_DOCUMENT` for what `document_key` does not make."""
    try:
        name = base64.b64decode(key[1:] + "=" * (-len(key[1:]) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise missing() from None
    if document_key(name) != key:
        raise missing()
    return name


def missing() -> RequestError:
    """Returns what is said of a document or picture that is not there; it does not tell which of the two."""
    return RequestError("E_REQUEST_DOCUMENT", "there is no such document, or it has no picture here", status=404)


@router.get("/v1/documents/{key}/image", response_class=Response)
async def document_image(
    key: str, request: Request, size: Literal["small", "large"] = "small", model: str | None = None
) -> Response:
    """The picture of a document as WebP, shrunk to fit; key and model are in the `image` of a hit."""
    service = service_of(request)
    served = service.served(model)
    with service.searches:
        known = request.headers.get("if-none-match")
        work = _shown_anew(service, served, id_of(key), _PIXELS[size], known)
        tag, content = await service.in_time(request, work)
    headers = {**_HEADERS, "etag": tag}
    if content is None:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/webp", headers=headers)


async def _shown_anew(
    service: Service, served: Served, name: str, pixels: int, known: str | None
) -> tuple[str, bytes | None]:
    """The picture's tag, and the picture unless the tag is the one that is known.

    The tag is of the file, not of what is drawn: who asks whether a picture is still the same is answered undecoded.
    """
    document = await document_of(service, served, name)
    async with service.showing:
        data = await _bytes_of(service, document)
        tag = await service.look(lambda: _tag(data, pixels))
        if tag == known:
            return tag, None
        picture = await served.engine.decode(data)
        return tag, await service.look(lambda: _drawn(picture, pixels))


def _tag(data: bytes, pixels: int) -> str:
    digest = hashlib.sha256(f"{cocoa.__version__} {pixels} ".encode())
    digest.update(data)
    return f'"{digest.hexdigest()[:20]}"'


async def document_of(service: Service, served: Served, name: str) -> Any:
    """Returns the row of a document by its id. Raises `E_REQUEST_DOCUMENT` if there is none."""
    if (index := served.index) is None:
        raise missing()
    try:
        [document] = await service.look(lambda: index.get([name]))
    except CocoaError as error:
        if error.code != "E_INDEX_ID":
            raise
        raise missing() from None
    return document


async def picture_of(service: Service, served: Served, document: Any) -> Image.Image:
    """Returns a document's picture in RGB. Raises `E_REQUEST_DOCUMENT` where there is none that may be shown."""
    return await served.engine.decode(await _bytes_of(service, document))


async def _bytes_of(service: Service, document: Any) -> bytes:
    if not document.image:
        raise missing()
    try:
        return await service.sources.document(document.image)
    except ImageError:
        raise missing() from None


def _drawn(picture: Image.Image, pixels: int) -> bytes:
    picture = picture.copy()
    picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=85, method=2)
    return stream.getvalue()
