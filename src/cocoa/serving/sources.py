"""A reference to a picture, as clients write them, to the bytes of a file."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from urllib.parse import unquote

from cocoa.errors import ImageError
from cocoa.images import data_url_bytes
from cocoa.sample import Sample
from cocoa.serving.archived import Archived
from cocoa.serving.fetching import Fetcher, FetchSettings
from cocoa.serving.logs import log
from cocoa.serving.problems import RequestError
from cocoa.serving.room import Take
from cocoa.serving.roots import Roots
from cocoa.serving.settings import ServeSettings

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_SMALL = 100_000
"""Characters of a data URL up to which it is decoded on the event loop: a thread takes longer to hear of it."""
_AT_ONCE = 8
"""Pictures that are fetched at once; each may take its ten seconds, so they must not be in anybody's way."""
_OF_ONE_REQUEST = 2
"""Pictures that are fetched at once for one request, so that it does not keep all others waiting."""


class Sources:
    """Data URLs and base64 always; `file:` where settings name roots, `http:` and `https:` where they name hosts."""

    def __init__(self, settings: ServeSettings) -> None:
        self.most = settings.limits.max_image_bytes
        self.limits = settings.limits.images
        self.most_together = settings.limits.max_request_bytes
        self.roots = Roots(settings.roots)
        fetch = FetchSettings(hosts=settings.fetch_hosts, allow_http=True, limits=self.limits)
        self.fetcher = Fetcher(fetch) if settings.fetch_hosts else None
        self._reading = ThreadPoolExecutor(2, thread_name_prefix="cocoa-source")
        self._fetching = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cocoa-fetch")
        # Of their own: to find a member of a large archive for the first time takes long.
        self._showing = ThreadPoolExecutor(2, thread_name_prefix="cocoa-show")
        self._archived = Archived(self.roots)
        self._has_told = False
        # Whoever waits for a turn holds no picture yet; whoever has one has it counted before the next begins.
        self._turns = {self._reading: asyncio.Semaphore(2), self._fetching: asyncio.Semaphore(_AT_ONCE)}

    async def resolve(self, samples: Sequence[Sample], take: Take) -> list[Sample]:
        """Returns the samples of a request with the bytes of their pictures.

        `take` is told of the bytes of each file that came from elsewhere than the request. Raises what it raises,
        `E_REQUEST_IMAGE`, `E_LIMIT_IMAGE`, `E_LIMIT_BYTES`, or `ImageError` for a file or URL.
        """
        named = 0
        own_turns = asyncio.Semaphore(_OF_ONE_REQUEST)

        def count(num_bytes: int, where: str) -> None:
            nonlocal named
            named += num_bytes
            if named > self.most_together:
                raise RequestError(
                    "E_LIMIT_BYTES",
                    f"the files have more than {self.most_together} bytes (max_request_bytes)",
                    where=where,
                    status=413,
                )
            take(num_bytes)

        try:
            # With the first that fails the others are left alone.
            async with asyncio.TaskGroup() as group:
                found = [
                    [
                        group.create_task(self._resolved(str(image), sample.where, count, own_turns))
                        for image in sample.images
                    ]
                    for sample in samples
                ]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [
            replace(sample, images=tuple(one.result() for one in images))
            for sample, images in zip(samples, found, strict=True)
        ]

    async def document(self, place: str) -> bytes:
        """Returns the bytes of the picture that a document names: a file inside the roots, or `archive!member` there.

        Raises `ImageError` for one that is not there, or may not be read.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._showing, self._archived.read, place, self.most)
        except ImageError:
            # Clients are not told why. Who runs the server is, once: what is wrong with one is wrong with most.
            if not self._has_told:
                self._has_told = True
                log.warning(
                    "pictures of documents are not shown, the first is %r: it must be a plain file (or member of an "
                    "archive) below a --root, and no link on the way",
                    place,
                )
            raise

    def close(self) -> None:
        """Ends the threads."""
        for pool in (self._reading, self._fetching, self._showing):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _resolved(
        self, reference: str, where: str, count: Callable[[int, str], None], own_turns: asyncio.Semaphore
    ) -> bytes:
        scheme = _scheme(reference)
        if len(reference) <= _SMALL and scheme == "data":
            return self._bytes(reference, where)
        is_fetched = scheme in ("http", "https")
        pool = self._fetching if is_fetched else self._reading
        # The own turn first: who waits for it must not hold one of all.
        async with own_turns if is_fetched else nullcontext(), self._turns[pool]:
            data = await asyncio.get_running_loop().run_in_executor(pool, self._bytes, reference, where)
            if scheme not in ("", "data"):
                count(len(data), where)
        return data

    def _bytes(self, reference: str, where: str) -> bytes:
        match _scheme(reference):
            case "":
                return self._decoded("data:;base64," + reference, where)
            case "data":
                return self._decoded(reference, where)
            case "file":
                return self.roots.read(unquote(reference[5:].removeprefix("//")), self.most, where)
            case "http" | "https" if self.fetcher is not None:
                return self.fetcher.fetch(reference, where)
        raise _not_taken(where)

    def _decoded(self, url: str, where: str) -> bytes:
        try:
            return data_url_bytes(url, self.limits, where)
        except ImageError as error:
            if error.code == "E_IMAGE_URL":
                raise _not_taken(where) from None
            if error.code == "E_IMAGE_TOO_LARGE":
                what = f"a picture has more than {self.most} bytes (max_image_bytes)"
                raise RequestError("E_LIMIT_IMAGE", what, where=where, status=413) from None
            raise


def _not_taken(where: str) -> RequestError:
    what = "this server takes pictures as data:image/...;base64,... or as base64"
    return RequestError("E_REQUEST_IMAGE", what, where=where)


def _scheme(reference: str) -> str:
    found = _SCHEME.match(reference)
    return found[1].lower() if found else ""
