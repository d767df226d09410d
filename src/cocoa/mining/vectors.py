"""Vectors of samples, each distinct content once, in shards on the disk: a shard that is there is not computed again.

Shapes: N samples of a shard, D dimensions.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from cocoa.archives import UNREADABLE, open_archive
from cocoa.backbones import Encoded
from cocoa.batch import fitted
from cocoa.data.bad_rows import BadRow
from cocoa.errors import CocoaError, DataError, ImageError, ModelError
from cocoa.files import write_file
from cocoa.images import ArchivedImage, ImageSource, image_key
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample
from cocoa.training.batches import content_key

_WINDOW = 128
"""Samples that are decoded while as many are computed."""

OnProgress = Callable[[int, int], None]


def content_digests(samples: Sequence[Sample], *, workers: int = 8) -> list[str | CocoaError]:
    """Returns a digest of each sample's text and of its pictures' files, or why a file cannot be read."""
    pictures = {image_key(image): image for sample in samples for image in sample.images}
    with ThreadPoolExecutor(workers, thread_name_prefix="cocoa-hash") as pool:
        digests = dict(zip(pictures, pool.map(_picture_digest, pictures.values()), strict=True))
    return [_sample_digest(sample, digests) for sample in samples]


def _sample_digest(sample: Sample, digests: dict[str, str | CocoaError]) -> str | CocoaError:
    digest = hashlib.sha256(sample.text.encode("utf-8", "surrogatepass"))
    for image in sample.images:
        one = digests[image_key(image)]
        if isinstance(one, CocoaError):
            return one.at(sample.where)
        digest.update(f"\0{one}".encode())
    return digest.hexdigest()


def _picture_digest(source: ImageSource) -> str | CocoaError:
    try:
        with _opened(source) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except UNREADABLE:
        return ImageError("E_IMAGE_OPEN", f"image {str(source)!r} cannot be read from disk")


def _opened(source: ImageSource) -> BinaryIO:
    if isinstance(source, ArchivedImage):
        return open_archive(source.archive).open(source.member)  # type: ignore[return-value]
    if isinstance(source, bytes):
        return io.BytesIO(source)
    assert isinstance(source, str | Path), "tables hold no open pictures"
    return Path(source).open("rb")


@dataclass(frozen=True)
class Shard:
    """The vectors [N, D] and content keys [N] of samples; `bad` says why there are none for some (then zero)."""

    vectors: NDArray[np.float32]
    keys: NDArray[np.int64]
    bad: dict[int, tuple[str, str]]

    def to_bytes(self) -> bytes:
        """Returns an npz archive."""
        buffer = io.BytesIO()
        bad = np.frombuffer(json.dumps(list(self.bad.items())).encode(), np.uint8)
        np.savez(buffer, vectors=self.vectors, keys=self.keys, bad=bad)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path, size: int) -> Shard:
        """Returns the shard of `size` samples in a file; raises `E_DATA_INCOMPLETE` for one that is not as written."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
                bad = {place: (code, message) for place, (code, message) in json.loads(content["bad"].tobytes())}
                shard = cls(content["vectors"], content["keys"], bad)
            if len(shard.keys) != size or len(shard.vectors) != size:
                raise ValueError
        except (TypeError, *UNREADABLE) as error:
            what = "the shard is not as it was written; remove it to compute it again"
            raise DataError("E_DATA_INCOMPLETE", what, where=str(path)) from error
        return shard


@dataclass(frozen=True)
class VectorStore:
    """The vectors of samples with distinct contents, `size` samples a shard, in a folder.

    A shard is named after the model's fingerprint and the contents of its samples, so a folder serves any number of
    jobs, and a picture that has changed is embedded again.
    """

    folder: Path
    fingerprint: str
    samples: Sequence[Sample]
    contents: Sequence[str]
    size: int

    @cached_property
    def paths(self) -> list[Path]:
        """The file of each shard."""
        return [
            self.folder / f"{self._name(self.contents[start : start + self.size])}.npz"
            for start in range(0, len(self.samples), self.size)
        ]

    def _name(self, contents: Sequence[str]) -> str:
        # How samples are batched decides how they are rounded, so a shard is kept and found whole.
        return hashlib.sha256("\n".join(["1", self.fingerprint, *contents]).encode()).hexdigest()

    def fill(self, load: Callable[[], EmbeddingModel], workers: int, on_progress: OnProgress, *, strict: bool) -> None:
        """Computes the shards that are not there, in order; the model is loaded only if there are any.

        A sample that cannot be read is noted in its shard, or raised if `strict`.
        """
        missing = [number for number, path in enumerate(self.paths) if not path.exists()]
        done = len(self.samples) - sum(len(self._of(number)) for number in missing)
        on_progress(done, len(self.samples))
        if not missing:
            return
        model = load()
        windows = [
            self.samples[start : min(start + _WINDOW, shard.stop)]
            for shard in map(self._of, missing)
            for start in range(shard.start, shard.stop, _WINDOW)
        ]
        with closing(_decoded(model, windows, workers)) as decoded:
            for number in missing:
                parts: list[Shard] = []
                size = 0
                while size < len(self._of(number)):
                    window = next(decoded)
                    if strict and (problem := next((one for one in window if isinstance(one, CocoaError)), None)):
                        raise problem
                    parts.append(_embed(model, window, self.samples, self._of(number).start + size))
                    size += len(window)
                    on_progress(done + size, len(self.samples))
                done += size
                write_file(self.paths[number], _joined(parts).to_bytes())

    def _of(self, number: int) -> range:
        return range(number * self.size, min((number + 1) * self.size, len(self.samples)))

    def _shard(self, number: int) -> Shard:
        return Shard.load(self.paths[number], len(self._of(number)))

    def keys(self) -> tuple[list[int], dict[int, BadRow]]:
        """Returns the content key of each sample, and the samples that have no vector."""
        keys: list[int] = []
        bad: dict[int, BadRow] = {}
        for number in range(len(self.paths)):
            shard = self._shard(number)
            keys += shard.keys.tolist()
            for place, (code, message) in shard.bad.items():
                sample = self._of(number)[place]
                bad[sample] = BadRow(self.samples[sample].where, code, message)
        return keys, bad

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the vectors of some samples; no more than these and one shard are in memory."""
        shards = places // self.size
        vectors: NDArray[np.float32] | None = None
        for number in sorted(set(shards.tolist())):
            shard = self._shard(number)
            if vectors is None:
                vectors = np.empty((len(places), shard.vectors.shape[1]), np.float32)
            here = shards == number
            vectors[here] = shard.vectors[places[here] % self.size]
        assert vectors is not None
        return vectors


Read = Encoded | CocoaError


def _decoded(
    model: EmbeddingModel, windows: Sequence[Sequence[Sample]], workers: int
) -> Generator[list[Read], None, None]:
    """The windows as the model reads them; threads decode the next one while this one is computed."""

    def read(sample: Sample) -> Read:
        try:
            # Cut here, so that texts which differ only in what is cut off count as equal.
            return fitted(model.backbone.encode(sample), model.max_content_tokens)
        except CocoaError as error:
            return error

    ahead: deque[list[Future[Read]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cocoa-decode")
    try:
        for window in windows:
            ahead.append([pool.submit(read, sample) for sample in window])
            if len(ahead) > 1:
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _embed(model: EmbeddingModel, window: Sequence[Read], samples: Sequence[Sample], start: int) -> Shard:
    """The vectors of a window whose first sample is `samples[start]`; equal contents are computed once."""
    keys = np.full(len(window), -1, np.int64)
    bad: dict[int, tuple[str, str]] = {}
    distinct: dict[int, Encoded] = {}
    for place, one in enumerate(window):
        if isinstance(one, CocoaError):
            row = BadRow.of(one, one.where)
            bad[place] = (row.code, row.message)
        else:
            keys[place] = content_key(one)
            distinct.setdefault(int(keys[place]), one)
    vectors = np.zeros((len(window), model.backbone.hidden_size), np.float32)
    if distinct:
        with torch.inference_mode():
            computed = model.embed_all(list(distinct.values())).float().cpu().numpy()
        number = {key: place for place, key in enumerate(distinct)}
        for place, key in enumerate(keys.tolist()):
            if place not in bad:
                vectors[place] = computed[number[key]]
    if not np.isfinite(vectors).all():
        place = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise ModelError("E_MODEL_OUTPUT", "the vector is not finite", where=samples[start + place].where)
    return Shard(vectors, keys, bad)


def _joined(parts: Sequence[Shard]) -> Shard:
    bad: dict[int, tuple[str, str]] = {}
    start = 0
    for part in parts:
        bad |= {start + place: what for place, what in part.bad.items()}
        start += len(part.keys)
    return Shard(np.concatenate([part.vectors for part in parts]), np.concatenate([part.keys for part in parts]), bad)
