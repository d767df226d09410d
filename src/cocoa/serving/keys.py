"""API keys: known by their hashes alone, compared in constant time, each with the scopes that it opens."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cocoa.errors import UsageError

SCOPES = frozenset({"embed", "search", "admin"})
"""`embed` opens embeddings, `search` search and the page, `admin` everything, metrics too."""

ENVIRONMENT = "COCOA_API_KEY"
"""One key with all scopes; taken out of the environment once it is read."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: a name for the log, its scopes, its SHA-256."""

    name: str
    scopes: frozenset[str]
    digest: bytes

    def opens(self, scope: str) -> bool:
        """Whether the key may do what `scope` stands for."""
        return scope in self.scopes or "admin" in self.scopes


ANYONE = ApiKey("anyone", SCOPES, b"")
"""Who asks where no key is configured."""


class ApiKeys:
    """The keys of a server; with none of them, on loopback, anyone may ask."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = tuple(keys)

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def of(cls, *plain: str, scopes: Iterable[str] = SCOPES) -> ApiKeys:
        """Returns keys given in plain, all with the same scopes."""
        return cls(ApiKey(f"key {n}", frozenset(scopes), _digest(key)) for n, key in enumerate(plain, 1))

    @classmethod
    def load(cls, file: Path | None) -> ApiKeys:
        """Returns the keys of a file and of the environment.

        A line of the file is `name scope[,scope] sha256`, the hash in hex; empty lines and those after `#` are skipped.
        Raises `E_USAGE_KEYS` naming file and line, never what stands there; also for a file, or a variable that is set,
        without a key: whoever gives one means to lock the server.
        """
        keys = []
        for number, line in enumerate(_lines(file), 1):
            if not line.strip() or line.startswith("#"):
                continue
            words = line.split()
            if len(words) != 3 or not set(words[1].split(",")) <= SCOPES or not re.fullmatch("[0-9a-f]{64}", words[2]):
                raise UsageError(
                    "E_USAGE_KEYS",
                    f"a line is `name scopes sha256` with scopes of {', '.join(sorted(SCOPES))}",
                    where=f"{file}:{number}",
                )
            keys.append(ApiKey(words[0], frozenset(words[1].split(",")), bytes.fromhex(words[2])))
        if file is not None and not keys:
            raise UsageError("E_USAGE_KEYS", "the file has no key", where=str(file))
        if (plain := os.environ.pop(ENVIRONMENT, None)) is not None:
            plain = plain.strip()  # A secret that was read from a file ends in a line end, which no header can hold.
            if not plain:
                raise UsageError("E_USAGE_KEYS", "the variable is set and has no key", where=ENVIRONMENT)
            keys.append(ApiKey("environment", SCOPES, _digest(plain)))
        return cls(keys)

    def find(self, plain: str | None) -> ApiKey | None:
        """Returns the key that was shown, None if it is not one of ours.

        Every key is compared, each in constant time, so that the time tells nothing.
        """
        if not self._keys:
            return ANYONE
        digest = _digest(plain or "")
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found if plain else None


def _digest(plain: str) -> bytes:
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape")).digest()


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("E_USAGE_KEYS", "file of keys cannot be read", where=str(file)) from error
