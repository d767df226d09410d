"""A training step on tensors that have shapes and no content: every byte that it would hold, every product it would do.

The code of the model, the objectives and the optimiser is the real one; only its large tensors are fake.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten
_FAKES = FakeTensorMode(allow_non_fake_inputs=True)
_ATTENTION = "scaled_dot_product"


def _forward(query: Any, key: Any, value: Any, *others: Any, **options: Any) -> int:
    return int(sdpa_flop_count(*_even(query, key, value)))  # type: ignore[no-untyped-call]


def _backward(gradient: Any, query: Any, key: Any, value: Any, *others: Any, **options: Any) -> int:
    return int(sdpa_backward_flop_count(*_even(gradient, query, key, value)))  # type: ignore[no-untyped-call]


def _even(*shapes: Any) -> list[tuple[int, ...]]:
    """Shapes with as many heads of keys as of queries: not all versions count shared ones."""
    return [(shape[0], shapes[0][1], *shape[2:]) for shape in shapes]


_FUSED_NAMES = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")

FUSED: dict[Any, Callable[..., int]] = {
    getattr(_aten, f"_scaled_dot_product_{name}{suffix}"): count
    for name in _FUSED_NAMES
    for suffix, count in (("", _forward), ("_backward", _backward))
}
"""FLOPs of fused attention by the shapes of what it is given: torch's own counter does not know the CPU's, and of the
GPU's not those with fewer heads of keys than of queries."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the bytes of living tensors: `live`, and the most there were, `peak`.

    Tensors that were made outside count only if they are handed to `hold`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        strangers = self.strangers(value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in strangers:
                self.hold(value)
        return out

    def strangers(self, tensors: Iterable[Tensor]) -> set[int]:
        """Returns the storages of tensors that are not counted, so that views of them are not either."""
        return {value.untyped_storage()._cdata for value in tensors} - self._sizes.keys()

    def hold(self, tensor: Tensor) -> None:
        """Counts a tensor for as long as it lives."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class Ledger(LiveBytes):  # type: ignore[no-untyped-call]
    """While active, counts the bytes of living fake tensors, and FLOPs.

    `attention` are the FLOPs between queries, keys and values; `other` all others. Token ids, roles and masks stay real
    tensors, so that code which looks into them works.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, FakeTensor)]
        if not given:
            if func._overloadpacket is not _aten.eye or kwargs.get("dtype") == torch.bool:
                return func(*args, **kwargs)
            # DoRA asks for a unit matrix as large as a weight; it holds numbers, so it needs no content either.
            unit = fake(func(*args, **{**kwargs, "device": torch.device("meta")}))
            self.hold(unit)
            return unit
        if func is _aten.index.Tensor:
            # How many places a mask chooses is known, because masks are real.
            args = (args[0], [part for index in args[1] for part in _as_numbers(index)])
        strangers = self.strangers(given)
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            kind = "attention" if _ATTENTION in str(packet) else "other"
            self.flops[kind] += flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet in FUSED:
            self.flops["attention"] += FUSED[packet](*(value.shape for value in args if isinstance(value, Tensor)))
        for value in tree_leaves(out):
            if isinstance(value, FakeTensor) and value.untyped_storage()._cdata not in strangers:
                self.hold(value)
        return out


def fake(tensor: Tensor) -> Tensor:
    """Returns a tensor of the same shape and type without content, that says it is on the CPU."""
    return FakeTensor(_FAKES, tensor.detach().to("meta"), torch.device("cpu"))


def make_fake(module: nn.Module) -> None:
    """Replaces all parameters, and buffers without values, by fake ones; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    made[id(weight)] = nn.Parameter(fake(weight), requires_grad=weight.requires_grad)
                part._parameters[name] = made[id(weight)]
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_meta:
                part._buffers[name] = fake(buffer)


def _as_numbers(index: Any) -> list[Any]:
    if isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor):
        return list(index.nonzero(as_tuple=True))
    return [index]
