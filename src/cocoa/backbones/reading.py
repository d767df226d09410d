"""The last decoder layer, computed only where its states are read.

A vector is pooled from few places (e), but every layer computes all. What a layer does between attention and its end is
done place by place, so in the last one it is done for the places that are read. The others' keys and values are still
made, because the places that are read look at them.

Shapes: N rows, S sequence, R places that are read, F values of a place.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

READ_AT = "read_at"
"""The keyword under which places travel through the stock language model to its layers."""

_now = threading.local()  # Passes may run side by side, and a pass is computed again in the backward pass.


def compute_where_read(layers: nn.ModuleList) -> None:
    """Makes stock decoder layers take `read_at`, int64 [R] places of the flattened rows, and the last one obey it.

    A copy of a layer takes it too, and obeys after `obey`.
    """
    # The attention is the one part of a layer that gets the keywords of a pass, also when the backward pass computes a
    # layer again; and it comes before the parts that obey.
    layer: Any
    for layer in layers:
        layer.self_attn.register_forward_pre_hook(_take, with_kwargs=True)
    obey(layer)


def obey(layer: Any) -> None:
    """Makes a layer that takes `read_at` compute for those places only what it does place by place."""
    if getattr(layer, "obeys_read_at", False):
        return  # a copy of one that does
    layer.obeys_read_at = True
    for part in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp):
        part.register_forward_pre_hook(_narrow)
        part.register_forward_hook(_widen)
    layer.mlp.register_forward_hook(_leave)


def hand_over(part: nn.Module, other: nn.Module) -> None:
    """Makes a module that now stands in the place of a layer's part, or around it, obey instead of the part."""
    # What is around a part must be narrow too: an adapter reads what the part reads.
    for hooks in ("_forward_pre_hooks", "_forward_hooks"):
        own, others = getattr(part, hooks), getattr(other, hooks)
        for key in [key for key, hook in own.items() if hook in (_narrow, _widen)]:
            others[key] = own.pop(key)


def states_at(states: Tensor, places: Tensor) -> Tensor:
    """Returns [R, F]: states [N, S, F] at R places of the flattened rows, int64."""
    return states.flatten(0, 1).index_select(0, places)


def only(states: Tensor, places: Tensor) -> Tensor:
    """Returns states [N, S, F] that are 0 where they are not read."""
    return _spread(states_at(states, places), places, states.shape[:2])


def _take(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # Set anew by each layer, so that what another pass of this thread wanted is never left over.
    _now.places = kwargs.pop(READ_AT, None)
    _now.shape = (kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).shape[:2]
    return args, kwargs


def _leave(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    _now.places = None


def _narrow(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    places = getattr(_now, "places", None)
    return None if places is None else (states_at(args[0], places),)


def _widen(part: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
    places = getattr(_now, "places", None)
    return None if places is None else _spread(output, places, _now.shape)


def _spread(values: Tensor, places: Tensor, shape: Sequence[int]) -> Tensor:
    whole = values.new_zeros(shape[0] * shape[1], values.shape[-1])
    return whole.index_copy(0, places, values).view(*shape, -1)
