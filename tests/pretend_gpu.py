"""A GPU that is not there: tensors that say they are on one, refused where it would refuse them, waits for it counted.

What runs is the CPU's own arithmetic, cut into passes as for a GPU. What a real GPU shows and this does
not: its own rounding, time, memory, streams, and tensors on the wrong device inside a backward pass.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from cocoa.backbones import fused
from cocoa.backbones.nano import load_nano

GPU = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_aten = torch.ops.aten
_PLAIN_TO = Tensor.to
_PLAIN_TENSOR = torch.tensor
_PLAIN_AUTOCAST = torch.autocast
_PLAIN_GROUPS = clip_grad._group_tensors_by_device_and_dtype
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.bincount.default,
}
"""Operations whose answer, or its size, the CPU must have before it can go on."""
_ANSWERS = {_aten._local_scalar_dense.default, _aten.equal.default, _aten.is_nonzero.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default}


@dataclass
class Counts:
    """What was asked of the pretended GPU: `kernels` by operation (views have none), copies to it, and `waits` for it:
    what was asked, and the line that asked."""

    kernels: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def num_kernels(self) -> int:
        """All of them."""
        return sum(self.kernels.values())

    def clear(self) -> None:
        """Forgets what was counted."""
        self.kernels.clear()
        self.waits.clear()
        self.copies = 0

    def wait(self, what: str) -> None:
        """Counts a wait under the innermost line of the product or of the stock library that asks."""
        frame: Any = sys._getframe(1)
        while frame is not None:
            path = frame.f_code.co_filename
            if ("cocoa/" in path and "/tests/" not in path) or "/transformers/" in path:
                break
            frame = frame.f_back
        place = f"{path.rpartition('/')[2]}:{frame.f_code.co_name}" if frame is not None else "a test"
        self.waits[what, place] += 1


_counts = Counts()


class OnGpu(Tensor):
    """A tensor that says it is on the pretended GPU; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        # A view of what was made outside of inference mode is no inference tensor; `held` is, where it should be.
        with torch.inference_mode(False):
            return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
                cls,
                held.shape,
                held.stride(),
                held.storage_offset(),
                dtype=held.dtype,
                layout=held.layout,
                # torch itself must not be told of a GPU that it cannot find.
                device=_CPU,
                requires_grad=held.requires_grad,
            )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"OnGpu({self.held!r})"

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return OnGpu(self.held.detach())

    @data.setter
    def data(self, value: OnGpu) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.held = value.held

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return _to(self, "cpu")

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        _counts.wait("tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor on a GPU to numpy")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert a tensor on a GPU to numpy")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _ToGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        _counts.copies += 1
        return OnGpu(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.held if isinstance(gradient, OnGpu) else gradient


class _ToCpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: OnGpu) -> Tensor:
        _counts.wait("to the CPU")
        return tensor.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return OnGpu(gradient)


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What stands for `Tensor.to`."""
    if args and isinstance(args[0], Tensor):
        args = (args[0].device, args[0].dtype, *args[1:])
    kwargs.pop("copy", None)
    device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)  # type: ignore[attr-defined]
    if dtype is not None and dtype != tensor.dtype:
        tensor = _PLAIN_TO(tensor, dtype)
    if device is not None and (device.type == "cuda") != isinstance(tensor, OnGpu):
        tensor = (_ToGpu if device.type == "cuda" else _ToCpu).apply(tensor)  # type: ignore[no-untyped-call]
    return tensor


def _tensor(data: Any, *, device: torch.device | str | None = None, **others: Any) -> Tensor:
    """What stands for `torch.tensor`, which copies below all that may catch it."""
    made = _PLAIN_TENSOR(data, **others)
    return made if device is None else _to(made, torch.device(device))


def _groups(lists: list[list[Any]]) -> Any:
    """What stands for how torch groups gradients that it clips: it finds them where it was told that they are."""
    groups = _PLAIN_GROUPS(lists)
    return {
        (GPU if isinstance(own[0][0], OnGpu) else device, kind): (own, places)
        for (device, kind), (own, places) in groups.items()
    }


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the numbers that its tensors hold."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    there = any(isinstance(tensor, OnGpu) for tensor in tensors)
    in_backward = torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined]
    if there and not in_backward:
        # What a backward pass makes anew is made where torch was told the weights are, so there nothing is refused.
        _refuse_mixed(func, tensors)
    if there:
        _count_wait(func, args, kwargs)
    device = kwargs.get("device")
    makes_there = there if device is None else torch.device(device).type == "cuda"
    if device is not None:
        kwargs = {**kwargs, "device": _CPU}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    given = tree_map_only(OnGpu, lambda tensor: tensor.held, (args, kwargs))
    made = func(*given[0], **given[1])
    if not makes_there or func in _ANSWERS:
        return made
    if not func.is_view and func is not _aten.detach.default:
        _counts.kernels[func._schema.name.removeprefix("aten::")] += 1
    # What is changed in place is given back as what it was.
    known = {id(inner): outer for inner, outer in zip(tree_leaves(given), tree_leaves((args, kwargs)), strict=True)}
    changes = func._schema.is_mutable

    def wrapped(tensor: Tensor) -> Tensor:
        return known[id(tensor)] if changes and id(tensor) in known else OnGpu(tensor)

    return tree_map_only(Tensor, wrapped, made)


def _refuse_mixed(func: Any, tensors: list[Tensor]) -> None:
    """Raises what torch raises; it takes numbers, and indices, from the CPU, and copies."""
    elsewhere = [tensor for tensor in tensors if not isinstance(tensor, OnGpu) and tensor.dim()]
    if not elsewhere or func is _aten.copy_.default:
        return
    if func in _INDEXING and isinstance(tensors[0], OnGpu) and not any(each.is_floating_point() for each in elsewhere):
        _counts.wait("indices from the CPU")
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, in {func}: {[each.shape for each in elsewhere]}"
    )


def _count_wait(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    if func in _WAITING:
        _counts.wait(str(func))
    elif func in _INDEXING and any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]):
        _counts.wait("a mask as an index")
    elif func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
        _counts.wait(str(func))


class _Everywhere(TorchDispatchMode):
    """Catches what is made on the GPU from nothing, on the thread that enters it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[Counts]:
    """Pretends that there is a GPU, on all threads begun inside, and gives what is asked of it.

    Models made before are sent to `GPU`; nothing that was sent there may be used afterwards. `torch.autocast` lowers
    what it lowers on a CPU, and chains of arithmetic are not compiled: each of them counts as one kernel.
    """
    run_thread = threading.Thread.run

    def run_with_gpu(self: threading.Thread) -> None:
        with _Everywhere():
            run_thread(self)

    def as_one_kernel(function: Any, *given: Any) -> Any:
        before = _counts.kernels.copy()
        made = function(*given)
        _counts.kernels = before + Counter({function.__name__: 1})
        return made

    # What the stock library makes of torch when it first opens a model would be made of what stands in for torch here,
    # and kept: rotary frequencies of all models after that were whatever memory held.
    load_nano()
    patched = pytest.MonkeyPatch()
    patched.setattr(Tensor, "to", _to)
    patched.setattr(torch, "tensor", _tensor)
    patched.setattr(Tensor, "pin_memory", lambda self, *_: self)
    patched.setattr(torch, "autocast", lambda _, *given, **others: _PLAIN_AUTOCAST("cpu", *given, **others))
    patched.setattr(torch, "compile", lambda function, **_: function)
    patched.setattr(clip_grad, "_group_tensors_by_device_and_dtype", _groups)
    patched.setattr(fused, "can_compile", lambda: True)
    patched.setattr(fused, "run_compiled", as_one_kernel)
    for name, stands_in in {
        "_lazy_init": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "max_memory_allocated": lambda *_: 0,
    }.items():
        patched.setattr(torch.cuda, name, stands_in)
    patched.setattr(threading.Thread, "run", run_with_gpu)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    # Weights that several modules share stay one tensor.
    torch.__future__.set_swap_module_params_on_conversion(True)
    _counts.clear()
    try:
        with _Everywhere():
            yield _counts
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        patched.undo()
