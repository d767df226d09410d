"""The vector of each distinct sample, by any number of processes, kept on the disk for other runs.

Shapes: M samples, D dimensions.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import cocoa
from cocoa.backbones import Encoded
from cocoa.batch import fitted
from cocoa.data.mmeb_folders import raise_all
from cocoa.errors import CocoaError, ModelError
from cocoa.evaluation.contents import Content, distinct_contents
from cocoa.evaluation.store import Made, Store, Work
from cocoa.files import write_file
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample, Task

_SHARD_TOKENS = 1 << 16
"""Tokens that are embedded and written together: some gigabytes of patches at most, seconds of work lost by a kill."""
SHARD_SIZE = 1024
"""Samples of a shard, where they are short."""

_FORMAT = 2
# Whatever these packages do to a picture or a text, vectors of before are not mixed with vectors of after.
_PACKAGES = ("torch", "transformers", "tokenizers", "pillow")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an evaluation is: of `samples` distinct ones `done` have a vector, `kept` of them from an earlier run.

    `tasks_ready` of `tasks` have all their vectors; `seconds` of work have made the rest.
    """

    samples: int
    done: int
    kept: int
    tokens: int
    tokens_done: int
    tokens_kept: int
    tasks: int
    tasks_ready: int
    seconds: float

    @property
    def rate(self) -> float:
        """Samples that are embedded a second, by all processes."""
        return (self.done - self.kept) / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """The time that is left at this speed (of tokens: samples differ in length); None before anything is known."""
        made = self.tokens_done - self.tokens_kept
        return (self.tokens - self.tokens_done) * self.seconds / made if made else None


@dataclass(frozen=True)
class Embedded:
    """Float32 [M, D] of the distinct samples, and which row is whose; `kept` of them were not computed now."""

    vectors: NDArray[np.float32]
    contents: Sequence[Content]
    of: dict[int, int]
    kept: int
    settings: dict[str, Any]

    def row(self, sample: Sample) -> int:
        """Returns the row of a sample of the tasks."""
        return self.of[id(sample)]


def embedding_settings(model: EmbeddingModel, fingerprint: str) -> dict[str, Any]:
    """Returns all that a vector depends on besides the sample."""
    grid = model.backbone.grid
    return {
        "format": _FORMAT,
        "model": fingerprint,
        "layout": model.layout,
        "attention": model.backbone.attention,
        "max_tokens": model.max_tokens,
        "min_pixels": grid.min_pixels,
        "max_pixels": grid.max_pixels,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "cocoa": cocoa.__version__,
        **{package: version(package) for package in _PACKAGES},
    }


def embed_tasks(
    model: EmbeddingModel,
    tasks: Sequence[Task],
    cache: Path,
    *,
    fingerprint: str,
    workers: int = 4,
    max_batch_tokens: int = 16_384,
    shard_size: int = SHARD_SIZE,
    on_pictures: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Embedded:
    """Returns the vector of every query and candidate; each distinct content is embedded once, over tasks and sides.

    Processes that are given the same tasks and `cache` share the work. What one of them has written there is not
    computed again, in this run or another with the same model and settings.

    Args:
        model: the model.
        tasks: whose samples are embedded.
        cache: folder of what is kept.
        fingerprint: says which model it is, of all that may use the cache.
        workers: threads that read and decode pictures.
        max_batch_tokens: padded tokens of a forward pass.
        shard_size: the most samples that are written together; processes that share the work must agree on it.
        on_pictures: told how many picture files of how many have been looked at.
        on_progress: told how far the embedding is.

    Raises:
        DataError: for a sample that cannot be used, ImageError for a picture; both name file and row. FolderError
            E_DATA_FOLDER for several, said at once.
        ModelError: E_MODEL_OUTPUT for a vector that is not finite; names file and row.
    """
    samples = (sample for task in tasks for one in task.questions for sample in (one.query, *one.candidates))
    with Store(cache / "pictures") as seen:
        contents, of = distinct_contents(samples, seen, workers=workers, on_progress=on_pictures)
    settings = embedding_settings(model, fingerprint)
    space = cache / "vectors" / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    if not (space / ".settings.json").exists():
        write_file(space / ".settings.json", json.dumps(settings, indent=2) + "\n")
    with Store(space) as store, _in_evaluation_mode(model):
        kept = len(contents) - len(store.unknown([content.key for content in contents]))
        tokens = [_num_tokens(model, content) for content in contents]
        counter = _Counter(tasks, contents, of, tokens, store)
        with ThreadPoolExecutor(workers, thread_name_prefix="cocoa-decode") as pool:
            job = _Job(model, {content.key: content for content in contents}, store, pool, max_batch_tokens)
            store.fill(
                _pieces(contents, tokens, shard_size),
                Work(job.begin, job.finish),
                lambda: on_progress(counter.now()) if on_progress is not None else None,
            )
        return Embedded(_vectors(store, contents), contents, of, kept, settings)


def _num_tokens(model: EmbeddingModel, content: Content) -> int:
    """The tokens of a sample as the model will read it, from its text and the sizes of its pictures."""
    grid = model.backbone.grid
    total = len(model.backbone.text.ids(content.sample.text))
    for size in content.sizes:
        try:
            width, height = grid.resized(*size)
        except CocoaError:  # Said with file and row when the picture is decoded.
            continue
        total += 2 + width * height // (grid.patch_size**2 * grid.patches_per_token)
    return min(total, model.max_tokens)


def _pieces(contents: Sequence[Content], tokens: Sequence[int], shard_size: int) -> list[list[str]]:
    """The keys in pieces, longest samples first, so that the last pieces are short.

    Samples that show the same pictures follow one another: what is embedded together sees a picture once. Those of like
    length share a pass all the same, because a piece has many and they are sorted in it.
    """
    longest: dict[tuple[str, ...], int] = {}
    groups = [content.pictures or (content.key,) for content in contents]
    for group, count in zip(groups, tokens, strict=True):
        longest[group] = max(longest.get(group, 0), count)
    pieces: list[list[str]] = []
    room = 0
    for place in sorted(
        range(len(contents)), key=lambda place: (-longest[groups[place]], groups[place], contents[place].key)
    ):
        if not pieces or room < tokens[place] or len(pieces[-1]) == shard_size:
            pieces.append([])
            room = _SHARD_TOKENS
        pieces[-1].append(contents[place].key)
        room -= tokens[place]
    return pieces


def _vectors(store: Store, contents: Sequence[Content]) -> NDArray[np.float32]:
    """One row for each sample; what looks the same to the model has the same row, whichever process computed it."""
    first: dict[str, NDArray[np.float32]] = {}
    return np.stack(
        [first.setdefault(store.facts[content.key], store.vectors[content.key]) for content in contents],
        dtype=np.float32,
    )


@contextmanager
def _in_evaluation_mode(model: EmbeddingModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


Read = Encoded | CocoaError


@dataclass(frozen=True)
class _Job:
    """How keys get their vectors: decoded by threads, then embedded together."""

    model: EmbeddingModel
    contents: dict[str, Content]
    store: Store
    pool: ThreadPoolExecutor
    max_batch_tokens: int

    def begin(self, keys: Sequence[str]) -> list[Future[Read]]:
        return [self.pool.submit(self._read, self.contents[key].sample) for key in keys]

    def _read(self, sample: Sample) -> Read:
        try:
            # Cut here, so that texts which differ only in what is cut off count as equal.
            return fitted(self.model.backbone.encode(sample), self.model.max_content_tokens)
        except CocoaError as error:
            return error if error.where else error.at(sample.where)

    def finish(self, futures: list[Future[Read]]) -> Made:
        good: list[Encoded] = []
        bad: list[CocoaError] = []
        for future in futures:
            read = future.result()
            if isinstance(read, CocoaError):
                bad.append(read)
            else:
                good.append(read)
        if len(bad) == 1:
            raise bad[0]
        raise_all(bad, Path(bad[0].where.rpartition(":")[0] if bad else ""))
        keys = [encoded.content_key for encoded in good]
        # Files that differ may hold the same pixels: such samples are known only now, and not embedded either.
        known = {fact: self.store.vectors[key] for key, fact in self.store.facts.items()}
        new = {key: encoded for key, encoded in zip(keys, good, strict=True) if key not in known}
        if new:
            vectors = self.model.embed_all(list(new.values()), max_batch_tokens=self.max_batch_tokens)
            known |= zip(new, self._checked(vectors.cpu().numpy(), list(new.values())), strict=True)
        return Made(keys, np.stack([known[key] for key in keys]))

    def _checked(self, vectors: NDArray[np.float32], samples: Sequence[Encoded]) -> NDArray[np.float32]:
        good = np.isfinite(vectors).all(axis=1)
        if not good.all():
            where = samples[int(good.argmin())].where
            raise ModelError("E_MODEL_OUTPUT", "the vector is not finite", where=where or "evaluate")
        return vectors


class _Counter:
    """Counts what is done, by whichever process, without looking at what was counted before."""

    def __init__(
        self,
        tasks: Sequence[Task],
        contents: Sequence[Content],
        of: dict[int, int],
        tokens: Sequence[int],
        store: Store,
    ) -> None:
        self._store = store
        self._tokens = {content.key: count for content, count in zip(contents, tokens, strict=True)}
        self._unknown = set(self._tokens)
        self._waiting = [
            {
                contents[of[id(sample)]].key
                for question in task.questions
                for sample in (question.query, *question.candidates)
            }
            for task in tasks
        ]
        self._start = time.perf_counter()
        self._kept = self._count()

    def _count(self) -> tuple[int, int]:
        new = {key for key in self._unknown if key in self._store.facts}
        self._unknown -= new
        for waiting in self._waiting:
            waiting -= new
        known = self._tokens.keys() - self._unknown
        return len(known), sum(self._tokens[key] for key in known)

    def now(self) -> Progress:
        """Returns the state."""
        done, tokens_done = self._count()
        return Progress(
            samples=len(self._tokens),
            done=done,
            kept=self._kept[0],
            tokens=sum(self._tokens.values()),
            tokens_done=tokens_done,
            tokens_kept=self._kept[1],
            tasks=len(self._waiting),
            tasks_ready=sum(not waiting for waiting in self._waiting),
            seconds=time.perf_counter() - self._start,
        )
