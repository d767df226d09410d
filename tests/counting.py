"""Counts what some work costs, instead of timing it: passes, padding, pictures, and the bytes of living tensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cocoa.backbones import qwen_vl
from cocoa.model import EmbeddingModel


@dataclass
class Counts:
    """Passes of the language model with places and tokens, of the vision tower with patches; pictures decoded.

    `peak` are the most bytes of tensors that lived at once, beside those that lived before.
    """

    passes: int = 0
    places: int = 0
    tokens: int = 0
    tower_passes: int = 0
    patches: int = 0
    decoded: int = 0
    peak: int = 0

    @property
    def pad_rate(self) -> float:
        """Share of padding in what the language model read."""
        return 1 - self.tokens / self.places


class _Living(TorchDispatchMode):
    """Bytes of the storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._drop, storage._cdata)
        return out


@contextmanager
def counted(model: EmbeddingModel) -> Iterator[Counts]:
    """Counts what a model does inside the block, on this thread (torch must have one thread)."""
    assert torch.get_num_threads() == 1, "passes side by side are not counted"
    counts, plain_open, plain_states = Counts(), qwen_vl.open_rgb, model.states

    def states(batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        counts.passes += 1
        counts.places += batch.roles.numel()
        counts.tokens += batch.num_tokens
        return plain_states(batch, *args, **kwargs)

    def saw(_: Any, args: tuple[Tensor, ...]) -> None:
        counts.tower_passes += 1
        counts.patches += len(args[0])

    def opened(*args: Any, **kwargs: Any) -> Any:
        counts.decoded += 1
        return plain_open(*args, **kwargs)

    model.states = states  # type: ignore[method-assign]
    qwen_vl.open_rgb = opened
    hook = model.backbone.vision.register_forward_pre_hook(saw)
    living = _Living()
    try:
        with living:
            yield counts
    finally:
        counts.peak = living.peak
        hook.remove()
        qwen_vl.open_rgb = plain_open
        del model.states  # type: ignore[method-assign]
