"""Where a server listens, held before its model is loaded: what is wrong with the address is told at once."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from cocoa.errors import UsageError
from cocoa.serving.logs import log

_OTHER_FILES = 256
"""Files and pipes that a server has open beside its connections."""


@contextmanager
def bound(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Gives a socket for each address of a host, bound to the port; nobody can connect before something listens.

    Raises `E_USAGE_ADDRESS` where there is no such address here, or the port is taken.
    """
    with ExitStack() as held:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            sockets = [held.enter_context(one) for one in _each(dict.fromkeys((kind, at) for kind, *_, at in found))]
        except (OSError, UnicodeError) as error:
            raise _not_to_be_had(host, port, error) from error
        yield sockets


def listen(sockets: Sequence[socket.socket]) -> None:
    """Begins to listen. Raises `E_USAGE_ADDRESS` for a port that was taken since: two may be bound, one listens."""
    for one in sockets:
        host, port, *_ = one.getsockname()
        try:
            one.listen()
        except OSError as error:
            raise _not_to_be_had(host, port, error) from error


def _not_to_be_had(host: str, port: int, error: Exception) -> UsageError:
    what = f"cannot listen on port {port} of {host}: {getattr(error, 'strerror', None) or error}"
    return UsageError("E_USAGE_ADDRESS", what, where="--host, --port")


def _each(addresses: dict[tuple[int, tuple[object, ...]], None]) -> Iterator[socket.socket]:
    """A socket for each address. One of a kind that this machine has not counts only where there is no other."""
    missing, num_bound = None, 0
    for kind, address in addresses:
        try:
            one = socket.socket(kind, socket.SOCK_STREAM)
        except OSError as error:
            missing = error
            continue
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if kind == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
        except OSError as error:
            one.close()
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            missing = error
            continue
        num_bound += 1
        yield one
    if missing is not None and not num_bound:
        raise missing


def allow_connections(number: int) -> None:
    """Raises the number of files that this process may have open so that connections fit; says so where they do not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("the system allows %d open files, fewer than %d connections want (ulimit -n)", allowed, number)
