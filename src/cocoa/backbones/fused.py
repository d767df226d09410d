"""Chains of elementwise arithmetic as one kernel on a GPU.

A GPU reads and writes its memory for every line of such a chain, and on large pictures that took longer than the matrix
products between them (docs/performance.md). `torch.compile` makes one kernel of a chain, forward and backward. On a
CPU, and where nothing can be compiled, the lines run as they stand: the same numbers up to rounding.

Shapes: P patches, H heads, F values of a head.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

from cocoa.errors import ModelError

Function = TypeVar("Function", bound=Callable[..., Any])
_log = logging.getLogger(__name__)
_MOST_VARIANTS = 64
"""Kernels of one chain: with and without gradients, by type, by number of axes, by whether two sizes are equal.

torch gives up after 8 and runs the lines as they stand from then on; the stages of one run can ask for more."""


@cache
def can_compile() -> bool:
    """Returns whether kernels can be made for a GPU here; says once why they cannot."""
    reason = None
    if os.environ.get("COCOA_FUSED") == "0":
        reason = "COCOA_FUSED=0"
    elif importlib.util.find_spec("triton") is None:
        reason = "triton is not installed"
    elif not any(shutil.which(compiler) for compiler in (os.environ.get("CC", "cc"), "gcc", "clang")):
        reason = "there is no C compiler"
    if reason is not None:
        _log.warning("elementwise arithmetic is not fused: %s; slower, the same numbers", reason)
    return reason is None


def run_compiled(compiled: Callable[..., Any], *given: Any) -> Any:
    """Returns what a compiled function gives. Raises `E_MODEL_KERNELS`, saying what to do, if it cannot be compiled."""
    from torch._dynamo.exc import TorchDynamoException  # what compiles takes long to import

    try:
        return compiled(*given)
    except TorchDynamoException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            "E_MODEL_KERNELS",
            f"no kernels can be made for this GPU: {reason}; with COCOA_FUSED=0 in the environment none are made",
        ) from error


def fused(function: Function) -> Function:
    """Returns a function of tensors that is one kernel where its first tensor is on a GPU."""

    @cache
    def compiled() -> Any:
        import torch._dynamo.config as dynamo  # not before it is needed: what compiles takes long to import

        # For the whole process: not all supported versions can be told for one function.
        dynamo.recompile_limit = max(dynamo.recompile_limit, _MOST_VARIANTS)
        return torch.compile(function, dynamic=True)

    @wraps(function)
    def call(first: Tensor, *others: Any) -> Any:
        if not (first.is_cuda and can_compile()):
            return function(first, *others)
        return run_compiled(compiled(), first, *others)

    return cast(Function, call)


@fused
def rotate_patches(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Returns queries and keys [P, H, F] turned by their patch's angles [P, F], in float32 as in the stock towers."""
    return _rotated(query, cos, sin), _rotated(key, cos, sin)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    numbers = states.float()
    first, second = numbers.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (numbers * cos.float()[:, None] + turned * sin.float()[:, None]).to(states.dtype)


@fused
def quick_gelu(numbers: Tensor) -> Tensor:
    """Returns x sigmoid(1.702 x), the activation of Qwen2-VL's tower."""
    return numbers * torch.sigmoid(1.702 * numbers)


@fused
def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Returns silu(gate) up: what goes through a gated map."""
    return functional.silu(gate) * up


@fused
def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Returns states [..., D] over the root of their mean square, computed in float32, times a weight [D]."""
    numbers = states.float()
    numbers = numbers * torch.rsqrt(numbers.square().mean(-1, keepdim=True) + epsilon)
    return weight * numbers.to(states.dtype)
