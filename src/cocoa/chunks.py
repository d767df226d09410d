"""Which rows share a forward pass: rows of like length, or several rows in one line, never more than a token budget."""

from __future__ import annotations

from collections.abc import Sequence

Chunk = list[list[int]]
"""The lines of one forward pass; a line is the places of the rows that stand in it, one after another."""

_SMALL_CHUNK_TOKENS = 1024
"""A pass of fewer is not worth its overhead, whatever is padding in it; of small passes, one of an eighth is."""
_GPU_SMALL_CHUNK_TOKENS = 8192
"""The same on a GPU, which computes so many in the time that it takes to tell it to (docs/performance.md)."""
CPU_CHUNK_TOKENS = 2048
"""The most of a pass on a CPU, whatever memory there is: its caches do not hold the states of more, which is slower."""


def _small_chunk(max_tokens: int, device: str) -> int:
    """The padded tokens below which a pass of at most `max_tokens` is filled up, on a type of device."""
    if device == "cuda":
        return min(_GPU_SMALL_CHUNK_TOKENS, max_tokens // 2)
    return min(_SMALL_CHUNK_TOKENS, max_tokens // 8)


def padded_chunks(lengths: Sequence[int], max_tokens: int, device: str = "cpu") -> list[Chunk]:
    """Returns chunks of one row a line, sorted by length, whose lines x longest row stay within `max_tokens`.

    On a CPU they stay within 2,048 too: a larger pass is no faster there, and holds more memory (docs/performance.md).
    A chunk also ends where more than an eighth of it would be padding, unless it is still too small to be worth a pass
    on that type of device. A row longer than `max_tokens` is a chunk of its own.
    """
    chunks: list[Chunk] = []
    num_tokens = 0
    small = _small_chunk(max_tokens, device)
    if device == "cpu":
        max_tokens = min(max_tokens, CPU_CHUNK_TOKENS)
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        # Sorted upwards, so the row that comes now is the longest of its chunk.
        padded = (len(chunks[-1]) + 1) * lengths[place] if chunks else 0
        num_tokens += lengths[place]
        is_dense = padded - num_tokens <= padded / 8 or padded <= small
        if chunks and padded <= max_tokens and is_dense:
            chunks[-1].append([place])
        else:
            chunks.append([[place]])
            num_tokens = lengths[place]
    return chunks


def packed_chunks(lengths: Sequence[int], max_tokens: int, *, line_tokens: int, device: str = "cpu") -> list[Chunk]:
    """Returns chunks whose lines hold as many rows as fit into `line_tokens`, longest rows first (first fit).

    Lines of like fullness share a chunk of at most `max_tokens` padded tokens; a row longer than `line_tokens` has a
    line of its own.
    """
    lines: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        number = next((number for number, left in enumerate(room) if lengths[place] <= left), None)
        if number is None:
            lines.append([])
            room.append(line_tokens)
            number = len(lines) - 1
        lines[number].append(place)
        room[number] -= lengths[place]
    used = [sum(lengths[place] for place in line) for line in lines]
    return [[lines[number] for [number] in chunk] for chunk in padded_chunks(used, max_tokens, device)]


def bounded(chunk: Chunk, aside: Sequence[int], max_tokens: int) -> list[Chunk]:
    """Returns a chunk as it is, or cut so that what stands beside its rows stays within `max_tokens` too.

    `aside` says how long that is for each place. It is padded, one line for each row; what is longer than `max_tokens`
    is in a chunk of its own.
    """
    places, _ = flattened(chunk)
    if len(places) * max(aside[place] for place in places) <= max_tokens:
        return [chunk]
    parts: list[Chunk] = []
    num_rows = longest = 0
    # Upwards, as above: what comes now is the longest, but where a line of several rows begins.
    for line in sorted(chunk, key=lambda line: max(aside[place] for place in line)):
        for number, place in enumerate(sorted(line, key=lambda place: aside[place])):
            longest = max(longest, aside[place])
            if not parts or (num_rows + 1) * longest > max_tokens:
                parts.append([[place]])
                num_rows, longest = 1, aside[place]
            else:
                num_rows += 1
                if number:
                    parts[-1][-1].append(place)
                else:
                    parts[-1].append([place])
    return parts


def flattened(chunk: Chunk) -> tuple[list[int], list[list[int]]]:
    """Returns a chunk's places in reading order, and its lines with each place replaced by its number in that order."""
    places = [place for line in chunk for place in line]
    numbers = iter(range(len(places)))
    return places, [[next(numbers) for _ in line] for line in chunk]
