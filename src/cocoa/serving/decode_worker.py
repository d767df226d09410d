"""What runs in a decoder's own process: pictures in, pixels or an error out, within limits of memory and time.

Started by `decoding.py` with one end of a socket. A request is a length and the bytes of a file. A reply is a kind, two
numbers and what they count: `P` width, height and the rows; before it maybe `N`, 0, and the length of notes in JSON; or
`E`, 0, and the length of an error in JSON. `R` says once that the process is ready.
"""

from __future__ import annotations

import json
import math
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from cocoa.errors import ImageError
from cocoa.images import ImageLimits, open_rgb

REQUEST = struct.Struct(">Q")
REPLY = struct.Struct(">cII")
_BAND_ROWS = 256

Decode = Callable[[bytes, ImageLimits], Image.Image]


def main(arguments: list[str], decode: Decode = open_rgb) -> None:
    """Answers requests until the other end is closed; `arguments` are what `decoding.py` gives."""
    # A keyboard and systemd send these to every process of the server, and it still wants what it has begun.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    descriptor, memory_bytes, cpu_seconds, limits = arguments
    connection = socket.socket(fileno=int(descriptor))
    _limit(int(memory_bytes))
    with connection, connection.makefile("rb") as requests:
        given = json.loads(limits)
        within = ImageLimits(**{**given, "formats": tuple(given["formats"])})
        connection.sendall(REPLY.pack(b"R", 0, 0))
        while head := requests.read(REQUEST.size):
            data = requests.read(REQUEST.unpack(head)[0])
            _allow_seconds(int(cpu_seconds))
            _answer(connection, data, within, decode)


def _answer(connection: socket.socket, data: bytes, limits: ImageLimits, decode: Decode) -> None:
    try:
        picture = decode(data, limits)
    except ImageError as error:
        _send_json(connection, b"E", {"code": error.code, "message": error.message})
        return
    except MemoryError:
        _send_json(connection, b"E", {"code": "E_IMAGE_TOO_LARGE", "message": "image does not fit in memory"})
        return
    if notes := picture.info.get("notes"):
        _send_json(connection, b"N", list(notes))
    connection.sendall(REPLY.pack(b"P", *picture.size))
    # In bands, so that no second copy of a large picture is made.
    for top in range(0, picture.height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, picture.height)
        connection.sendall(picture.crop((0, top, picture.width, bottom)).tobytes())


def _send_json(connection: socket.socket, kind: bytes, content: object) -> None:
    text = json.dumps(content).encode()
    connection.sendall(REPLY.pack(kind, 0, len(text)) + text)


def _limit(memory_bytes: int) -> None:
    """Lets the process take `memory_bytes` more than it has now, write no file and leave no core."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _allow_seconds(seconds: int) -> None:
    """Lets the process run for `seconds` of processor time from now; then the system ends it (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))


if __name__ == "__main__":
    main(sys.argv[1:])
