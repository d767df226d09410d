"""A conversation about one picture, the reply to it, and what an engine that replies must offer."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from PIL import Image

from cocoa.errors import CocoaError
from cocoa.images import ImageSource, open_rgb


class EndpointError(CocoaError):
    """One question got no usable reply (`E_ENDPOINT_*`, `E_REPLY_*`); `tokens` is what that cost, as in a `Reply`.

    `dropped` says that at some attempt the endpoint was there and broke off: it may have gone down at this question.
    """

    tokens: tuple[int, int] = (0, 0)
    dropped: bool = False


class EndpointRefusedError(EndpointError):
    """No question would get a reply: the key, the model or the address is wrong (`E_ENDPOINT_REFUSED`)."""


class StoppedError(Exception):
    """The job was told to stop while a question waited for its turn."""


class Picture:
    """A picture by its name, content hash and source; decoded when first looked at, at most `max_pixels` large."""

    def __init__(self, name: str, sha256: str, source: ImageSource, max_pixels: int) -> None:
        self.name = name
        self.sha256 = sha256
        self._source = source
        self._max_pixels = max_pixels

    @cached_property
    def rgb(self) -> Image.Image:
        """The picture in RGB, by the one decoder. Raises `ImageError`."""
        picture = open_rgb(self._source)
        width, height = picture.size
        if width * height <= self._max_pixels:
            return picture
        shrink = (self._max_pixels / (width * height)) ** 0.5
        return picture.resize((max(1, int(width * shrink)), max(1, int(height * shrink))), Image.Resampling.BICUBIC)

    @cached_property
    def data_url(self) -> str:
        """The picture as a JPEG in a data URL. Raises `ImageError`."""
        buffer = io.BytesIO()
        self.rgb.save(buffer, "JPEG", quality=95, subsampling=0)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Chat:
    """A conversation that waits for a reply: turns by user and model in turn, the first with the picture."""

    picture: Picture
    turns: tuple[str, ...]
    system: str = ""

    @property
    def key(self) -> str:
        """A digest of all that is said and shown."""
        said = json.dumps([self.picture.sha256, self.system, *self.turns])
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said.

    `finish` is why it ended: "stop", "length" (cut short), "refused" or the engine's own word. The tokens count what
    was paid for this reply, spoilt attempts included. `host` is who replied.
    """

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    host: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a reply is drawn.

    `extra` goes into the request's body, or to a local model's generation, as it is and over the rest; a None there
    leaves a field out.
    """

    temperature: float = 0.7
    max_tokens: int = 1024
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Something that replies; several threads ask at once, as many as `concurrency`."""

    model: str
    concurrency: int
    follows_instructions: bool

    def check(self, sampling: Sampling) -> None:
        """Raises `UsageError` for sampling that it cannot heed; called before a job begins."""
        ...

    def ask(self, chat: Chat, sampling: Sampling, stop: threading.Event) -> Reply:
        """Returns the reply.

        Raises `EndpointError` if there is no usable one, `EndpointRefusedError` if there never will be, `ImageError`
        for a bad picture, and `StoppedError` if `stop` is set before the question is sent.
        """
        ...
