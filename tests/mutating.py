"""Valid bytes made wrong, from a seed: bytes changed, cut and doubled; values of JSON that are not what they were."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 7, 2**20, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"),
    "", " ", "\0", "\ud800", "a" * 5_000, "../../etc/passwd", "/dev/zero", "C:\\x", "data:image/png;base64,AAAA",
    "<|image_1|><|image_1|>", "['a', 'b']", '["a', "1e999", "\u202e\ufeff", [], {}, [[]], [None], [1, "a"], {"": None},
    {"bytes": 5, "path": []}, {"bytes": "x"}, ["a"] * 300, {"a": {"a": {"a": 1}}},
)  # fmt: skip
"""Values that stand where others are expected."""

_SPLICES = (
    b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\r", b"\n", b"\\", b'"', b"{", b"[", b"}", b"]", b":", b",", b"- ",
    b"1e999", b"9" * 5_000, b"[" * 3_000, b'{"a":' * 3_000, b"NaN", b"-Infinity", b"null", b"&a ", b"*a", b"!!python/",
    b"? ", b"<<: ", b"%", b"\\ud800", b"\x1a", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0",
)  # fmt: skip
"""What parsers stumble over when it stands in the middle."""


def mutated(rng: random.Random, whole: bytes) -> bytes:
    """Returns bytes that differ from valid ones in a few places; headers and ends are hit more often."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        place = _place(rng, len(data))
        length = rng.choice((1, 2, 4, 16, 200))
        match rng.randrange(7):
            case 0 | 1:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length] * rng.choice((1, 1, 20))
            case 4:
                data[place : place + length] = rng.randbytes(length)
            case 5:
                data[place:place] = rng.choice(_SPLICES)
            case 6 if rng.random() < 0.3:
                del data[place:]
    return bytes(data)


def mutated_json(rng: random.Random, whole: bytes) -> bytes:
    """Returns JSON (or lines of it) with some values replaced, keys renamed, lost or doubled, or nested deeply."""
    lines = whole.decode().splitlines() if _is_lines(whole) else [whole.decode()]
    number = rng.randrange(len(lines))
    tree = json.loads(lines[number])
    for _ in range(rng.randint(1, 3)):
        tree = _replaced(rng, tree)
    lines[number] = json.dumps(tree).replace('"@deep"', "[" * 5_000 + "]" * 5_000)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _place(rng: random.Random, size: int) -> int:
    where = rng.random()
    if where < 0.4:
        return rng.randrange(min(size, 200) or 1)
    return max(0, size - 1 - rng.randrange(200)) if where < 0.6 else rng.randrange(size or 1)


def _is_lines(whole: bytes) -> bool:
    try:
        json.loads(whole)
    except ValueError:
        return True
    return False


def _replaced(rng: random.Random, tree: Any) -> Any:
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            walk(node[key])

    walk(tree)
    if not places or rng.random() < 0.03:
        return deepcopy(rng.choice(NASTY))
    node, key = rng.choice(places)
    what = rng.random()
    if what < 0.65:
        node[key] = deepcopy(rng.choice(NASTY))
    elif what < 0.7:
        node[key] = "@deep"
    elif what < 0.85 or not isinstance(node, dict):
        del node[key]
    else:
        node[rng.choice(("", "x", f"{key} ", "kind", "__class__"))] = node.pop(key)
    return tree
