"""What a stage trains: the model and the objectives' own weights as one module, whole on each rank or sharded.

Every forward pass goes through `Trainee.forward`, because sharded weights are only gathered there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cocoa.model import EmbeddingModel
from cocoa.objectives import Objective
from cocoa.recipe import Stage
from cocoa.training.ranks import Ranks


class Trainee(nn.Module):
    """A model under a stage, with the objectives that judge it."""

    def __init__(
        self,
        model: EmbeddingModel,
        stage: Stage,
        objectives: Sequence[Objective],
        *,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.objectives = nn.ModuleList(objectives)
        self.mixed = mixed
        self.is_sharded = False

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        """Returns what `work` computes from the weights, in bfloat16 where that is safe if the trainee is `mixed`."""
        with self.precision():
            result = work()
            if self.is_sharded and torch.is_grad_enabled():
                # A rank whose rows need no picture or no word must still take part in adding up every gradient.
                result = result + 0.0 * sum(weight.flatten()[0].float() for weight in self._shared_weights())
        return result

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that the optimiser changes, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    @property
    def trains_vision(self) -> bool:
        """Whether any weight of the vision tower changes."""
        return any(weight.requires_grad for weight in self.model.backbone.vision.parameters())

    def gradient_scale(self, ranks: Ranks) -> int:
        """Returns what a loss of this rank is multiplied by so that gradients are summed over ranks: FSDP averages."""
        return ranks.count if self.is_sharded else 1

    def shard(self) -> None:
        """Splits the weights over all ranks (FSDP2): each decoder layer is gathered only while it computes.

        The vision tower and the objectives' own weights are gathered with the whole, so that a rank without pictures
        never waits for one with.
        """
        for layer in self.model.backbone.layers:
            fully_shard(layer)
        fully_shard(self)
        self.is_sharded = True

    def whole_weights(self, *, keep: bool = True) -> dict[str, Tensor]:
        """Returns all weights, each once and whole, on the CPU, where they are to `keep`; every rank must call this."""
        return kept_whole(self.named_parameters(), keep=keep)

    def precision(self) -> AbstractContextManager[object]:
        """Returns what a pass computes within: bfloat16 where that is safe, if the trainee is `mixed`."""
        if not self.mixed:
            return nullcontext()
        return torch.autocast(self.model.backbone.device.type, torch.bfloat16)

    def _shared_weights(self) -> list[nn.Parameter]:
        in_layers = {id(weight) for layer in self.model.backbone.layers for weight in layer.parameters()}
        return [weight for weight in self.parameters() if weight.requires_grad and id(weight) not in in_layers]


def kept_whole(tensors: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Returns tensors by name, whole, on the CPU; without `keep` none, but each is gathered for the ranks that do."""
    kept = {}
    for name, tensor in tensors:
        if keep:
            kept[name] = whole(tensor)
        elif isinstance(tensor, DTensor):
            with torch.no_grad():
                tensor.full_tensor()
    return kept


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor on the CPU, gathered from all ranks if it is split over them."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def put(tensor: Tensor, content: Tensor) -> None:
    """Fills a tensor, whole or split over all ranks, with whole content of its shape."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            spread = distribute_tensor(content.to(tensor.device), tensor.device_mesh, tensor.placements)
            tensor.copy_(spread)
        else:
            tensor.copy_(content)
