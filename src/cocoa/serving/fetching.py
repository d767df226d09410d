"""Pictures by URL, for servers that are told to fetch them: from public addresses of allowed hosts, and no further."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpcore2

from cocoa.errors import ImageError
from cocoa.images import DEFAULT_LIMITS, ImageLimits
from cocoa.images.headers import kind_of
from cocoa.serving.addresses import Address, is_public, parse_address

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BINARY = ("application/octet-stream", "binary/octet-stream")
_ENOUGH_TO_KNOW = 32
_MOST_ADDRESSES = 4
"""Addresses of a name that are tried, in the order in which the system gives them."""
_UNREACHABLE = "its host cannot be reached, or is none that pictures are fetched from"

Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """What may be fetched. Without `hosts` nothing is.

    `hosts` are names ("images.example.org"), all names below one (".example.org"), or "*" for every public host.
    `ports` are those that a URL may name. `seconds` are for a whole fetch, with names looked up and redirects followed.
    """

    hosts: tuple[str, ...] = ()
    allow_http: bool = False
    ports: tuple[int, ...] = (80, 443)
    seconds: float = 10.0
    max_redirects: int = 3
    limits: ImageLimits = DEFAULT_LIMITS

    def allows(self, address: Address) -> bool:
        """Returns whether a URL is one that may be asked, if its host turns out to be public."""
        if (address.scheme == "http" and not self.allow_http) or address.port not in self.ports:
            return False
        names = [name.lower() for name in self.hosts]
        return any(
            name in ("*", address.host) or (name.startswith(".") and address.host.endswith(name)) for name in names
        )


def resolve_all(host: str, port: int) -> list[str]:
    """Returns every address of a name, of all families."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Fetcher:
    """Fetches pictures; asks no proxy, sends no cookie and no credential.

    `resolve` and `public` are what looks names up and what judges addresses; for tests.
    """

    def __init__(
        self,
        settings: FetchSettings,
        *,
        resolve: Resolve = resolve_all,
        public: Callable[[str], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._resolve, self._public = resolve, public
        self._tls = tls or ssl.create_default_context()

    def fetch(self, url: str, where: str = "") -> bytes:
        """Returns the bytes behind a URL; what they show is for the decoder to say.

        Raises:
            ImageError: E_IMAGE_URL for a URL that is not fetched, E_IMAGE_FETCH where nothing comes back,
                E_IMAGE_TIMEOUT, E_IMAGE_TOO_LARGE, and E_IMAGE_FORMAT for what is no picture by its own word or its
                first bytes. No message says more of a host than that.
        """
        try:
            return self._follow(url, time.monotonic() + self._settings.seconds)
        except ImageError as error:
            raise ImageError(error.code, f"the picture was not fetched: {error.message}", where=where) from error
        except (httpcore2.TimeoutException, TimeoutError) as error:
            raise ImageError("E_IMAGE_TIMEOUT", "the picture was not fetched in time", where=where) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise ImageError("E_IMAGE_FETCH", f"the picture was not fetched: {_UNREACHABLE}", where=where) from error

    def _follow(self, url: str, deadline: float) -> bytes:
        if not self._settings.hosts:
            raise ImageError("E_IMAGE_URL", "URLs are not fetched here; send the picture itself, as a data URL")
        for _ in range(self._settings.max_redirects + 1):
            address = parse_address(url)
            if address is None:
                raise ImageError("E_IMAGE_URL", "it is not a plain http or https URL")
            if not self._settings.allows(address):
                raise ImageError("E_IMAGE_URL", "its scheme, host or port is not allowed here")
            answer = self._ask(address, deadline)
            if isinstance(answer, bytes):
                return answer
            # Whatever this makes of the two is judged anew, by the same rules as what a person gave.
            try:
                url = urljoin(str(address), answer)
            except ValueError as error:
                raise ImageError("E_IMAGE_URL", "it leads on to what is no URL") from error
        raise ImageError("E_IMAGE_URL", f"it leads on more than {self._settings.max_redirects} times")

    def _ask(self, address: Address, deadline: float) -> bytes | str:
        """The body, or where it is to be found instead."""
        request = httpcore2.Request(
            b"GET",
            httpcore2.URL(
                scheme=address.scheme.encode(),
                host=address.host.encode(),
                port=address.port,
                target=address.target.encode(),
            ),
            headers=[
                (b"Host", address.authority.encode()),
                (b"User-Agent", b"cocoa"),
                (b"Accept", b"image/*"),
                (b"Accept-Encoding", b"identity"),
                (b"Connection", b"close"),
            ],
        )
        backend = _Pinned(lambda host, port: self._checked(host, port, deadline), deadline)
        with httpcore2.ConnectionPool(ssl_context=self._tls, network_backend=backend) as pool:
            response = pool.handle_request(request)
            try:
                return self._read(response)
            finally:
                response.close()

    def _checked(self, host: str, port: int, deadline: float) -> Sequence[str]:
        """Addresses to connect to; all addresses of the name must be public, so that none of them is a trap."""
        addresses = _within(deadline, lambda: self._resolve(host, port))
        if not addresses or not all(self._public(address) for address in addresses):
            raise ImageError("E_IMAGE_FETCH", _UNREACHABLE)
        return addresses[:_MOST_ADDRESSES]

    def _read(self, response: httpcore2.Response) -> bytes | str:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        limits = self._settings.limits
        if response.status in _REDIRECTS and "location" in headers:
            return headers["location"]
        if response.status != 200:
            raise ImageError("E_IMAGE_FETCH", "its host has no picture there")
        kind = headers.get("content-type", _BINARY[0]).partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind not in _BINARY:
            raise ImageError("E_IMAGE_FORMAT", "what came back says that it is no picture")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ImageError("E_IMAGE_FORMAT", "what came back is packed, though it was not to be")
        too_large = ImageError("E_IMAGE_TOO_LARGE", f"it has more than {limits.max_bytes} bytes")
        length = headers.get("content-length", "0")
        if len(length) > 12 or (length.isdecimal() and int(length) > limits.max_bytes):
            raise too_large
        data, is_known = bytearray(), False
        for piece in response.iter_stream():
            data += piece
            if len(data) > limits.max_bytes:
                raise too_large
            if not is_known and len(data) >= _ENOUGH_TO_KNOW:
                _check_kind(data, limits)
                is_known = True
        _check_kind(data, limits)
        return bytes(data)


def _check_kind(data: bytearray, limits: ImageLimits) -> None:
    if kind_of(bytes(data[:_ENOUGH_TO_KNOW])) not in limits.formats:
        raise ImageError("E_IMAGE_FORMAT", f"what came back is not one of {', '.join(limits.formats)}")


def _within(deadline: float, work: Callable[[], Sequence[str]]) -> Sequence[str]:
    """What `work` returns, if it does so in time; looking up names cannot be interrupted, only left alone."""
    results: queue.SimpleQueue[Sequence[str] | OSError] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put(work())
        except (OSError, UnicodeError) as error:
            results.put(OSError(str(error)))

    threading.Thread(target=run, daemon=True, name="resolve").start()
    try:
        result = results.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, OSError):
        raise result
    return result


class _Pinned(httpcore2.NetworkBackend):
    """Connects to an address that was checked, and to no other name or address; all within one deadline."""

    def __init__(self, checked: Callable[[str, int], Sequence[str]], deadline: float) -> None:
        self._checked, self._deadline = checked, deadline
        self._plain = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        *others, last = self._checked(host, port)
        for place, address in enumerate(others):
            try:
                # A share of the time each: one that says nothing leaves enough for the next.
                return self._connected(address, port, _left(self._deadline) / (len(others) + 1 - place))
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return self._connected(last, port, _left(self._deadline))

    def _connected(self, address: str, port: int, seconds: float) -> httpcore2.NetworkStream:
        return _Timed(self._plain.connect_tcp(address, port, seconds), self._deadline)


class _Timed(httpcore2.NetworkStream):
    """A connection whose every wait ends at the deadline, however slowly bytes drip in."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Timed(self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
