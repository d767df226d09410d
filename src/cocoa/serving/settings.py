"""What a server may be told, typed and frozen; every limit has its row in docs/serving.md."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from cocoa.corpus.hits import MAX_K
from cocoa.errors import UsageError
from cocoa.images import ImageLimits
from cocoa.option_errors import explained
from cocoa.options import Options

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_NAME = re.compile(r"\*|[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)


def _host(text: str) -> str:
    """Returns what a host can be called; anything else would stand there and never be met."""
    try:
        if not _NAME.fullmatch(text):
            ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("give a host's name alone, without scheme, port or path") from None
    return text


def _host_or_all_below(text: str) -> str:
    _host(text.removeprefix("."))
    return text


Host = Annotated[str, AfterValidator(_host)]
HostOrAllBelow = Annotated[str, AfterValidator(_host_or_all_below)]


class RequestLimits(Options):
    """What one request may ask for; one more answers 413 or 422 and names the limit."""

    max_body_bytes: int = Field(32_000_000, ge=1)
    """Bytes of a body."""
    max_header_bytes: int = Field(16_384, ge=256)
    """Bytes of all header names and values together, and of the path with its query."""
    max_json_depth: int = Field(32, ge=1)
    """Lists and objects inside one another."""
    max_json_values: int = Field(20_000, ge=1)
    """Values of a body, of whatever kind."""
    max_items: int = Field(256, ge=1)
    """Things to embed."""
    max_characters: int = Field(100_000, ge=1)
    """Characters of one text."""
    max_images: int = Field(64, ge=1)
    """Pictures, of all items together."""
    max_image_bytes: int = Field(20_000_000, ge=1)
    """Bytes of one picture's file."""
    max_image_pixels: int = Field(50_000_000, ge=1, le=178_956_970)  # Pillow opens none that has more.
    """Pixels of one picture before resizing."""
    max_request_bytes: int = Field(100_000_000, ge=1)
    """Bytes of all files together that a request names by `file:` or URL."""
    max_request_pixels: int = Field(100_000_000, ge=1)
    """Pixels of all pictures together before resizing."""
    max_k: int = Field(1000, ge=1, le=MAX_K)
    """Hits of a search."""
    max_likes: int = Field(32, ge=1)
    """Documents in `like` and `unlike`, each."""
    max_body_seconds: float = Field(30.0, gt=0)
    """Seconds until the whole body must have arrived."""

    @property
    def images(self) -> ImageLimits:
        """The limits of one picture, as the decoder takes them."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)


class QueueBounds(Options):
    """What may be under way at once, from admission to answer; more answers 429."""

    max_items: int = Field(2048, ge=1)
    """Things to embed."""
    max_tokens: int = Field(1_000_000, ge=1)
    """Tokens, as estimated before decoding."""
    max_pixels: int = Field(400_000_000, ge=1)
    """Pixels of pictures before resizing."""
    max_body_bytes: int = Field(512_000_000, ge=1)
    """Bytes of bodies, and of files that they name."""
    max_searches: int = Field(256, ge=1)
    """Searches, documents' pictures and explanations."""
    max_batch_tokens: int = Field(16_384, ge=1)
    """Tokens of one forward pass, padding included."""
    max_batch_items: int = Field(256, ge=1)
    """Items of one forward pass."""


class ServeSettings(Options):
    """A server: where it listens, whom it lets in, what it may be asked."""

    model_name: str = "cocoa"
    """What clients call the model."""
    host: str = "127.0.0.1"
    """Address to listen on; others than loopback need keys."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0: any free one."""
    key_file: Path | None = None
    """Lines of `name scopes sha256`; see `cocoa.serving.keys`."""
    allowed_hosts: tuple[Host, ...] = ()
    """Names that a Host header may say besides loopback's; `*` for any."""
    roots: tuple[Path, ...] = ()
    """Folders that `file:` references may name pictures in."""
    fetch_hosts: tuple[HostOrAllBelow, ...] = ()
    """Hosts that picture URLs may name; none: no URL is fetched."""
    decode_workers: int = Field(1, ge=1, le=64)
    """Processes that decode pictures."""
    max_connections: int = Field(4096, ge=1)
    """Connections; one more is closed with 503."""
    header_seconds: float = Field(10.0, gt=0)
    """Seconds until the whole head of a request must have arrived."""
    cache_items: int = Field(0, ge=0)
    """Vectors that are kept for when the same item comes again; 0: none."""
    deadline_seconds: float = Field(30.0, gt=0)
    """Seconds from a request's arrival to its answer; then it is dropped."""
    ready_seconds: float = Field(5.0, gt=0)
    """Seconds within which the probe of `/readyz` must come back."""
    drain_seconds: float = Field(30.0, ge=0)
    """Seconds that requests under way may still take after SIGTERM."""
    limits: RequestLimits = RequestLimits()
    queue: QueueBounds = QueueBounds()


def settings_from(given: dict[str, Any], changes: Sequence[str]) -> ServeSettings:
    """Returns settings with changes of the form `key=value`, `limits.key=value` or `queue.key=value`.

    Raises `E_USAGE_SETTING` for a setting that there is not, or a value that it cannot have.
    """
    tree: dict[str, Any] = {"limits": {}, "queue": {}} | given
    for change in changes:
        dotted, equals, value = change.partition("=")
        group, dot, key = dotted.rpartition(".")
        if not equals or (dot and group not in ("limits", "queue")):
            raise UsageError("E_USAGE_SETTING", f"--set takes key=value, got {change!r}")
        field = None if dot else ServeSettings.model_fields.get(key)
        is_text = field is not None and field.annotation is str
        (tree[group] if dot else tree)[key] = value if is_text else _number(value)
    try:
        return ServeSettings.model_validate(tree)
    except ValidationError as error:
        place, _, what = next(explained(error, ServeSettings)).partition(": ")
        raise UsageError("E_USAGE_SETTING", what, where=place) from error


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
