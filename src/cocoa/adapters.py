"""LoRA and DoRA (arXiv 2106.09685, 2402.09353): small trained weights beside frozen ones, folded into them afterwards.

`peft` adapts the linear maps. The embedding row of the mask token is trained beside them: under adapters alone a new
token would keep its random row (method, section 10, point 5).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.dora import DoraLinearLayer
from pydantic import Field
from torch import Tensor, nn

from cocoa.backbones import Backbone
from cocoa.backbones.reading import hand_over
from cocoa.errors import TrainingError
from cocoa.options import Options

_PEFT_NAME = "default"


class LoraOptions(Options):
    """Train adapters of this shape instead of all weights; the paper's values are the defaults."""

    rank: Annotated[int, Field(gt=0)] = 8
    """Numbers that each adapter has room for between a layer's input and its output."""
    alpha: Annotated[float, Field(gt=0)] = 64.0
    """What an adapter adds is multiplied by `alpha / rank`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of an adapter's input that is set to 0 in training."""
    dora: bool = True
    """DoRA: also train the length of each row of an adapted weight, apart from its direction."""
    vision: bool = True
    """Put adapters also in the vision tower."""


class Adapter:
    """Adapters that sit in a backbone until `merge`; `names` are the adapted modules below `backbone.stock`."""

    def __init__(self, backbone: Backbone, names: tuple[str, ...], mask_row: _MaskRow, unfrozen: list[nn.Parameter]):
        self.names = names
        self._backbone = backbone
        self._mask_row = mask_row
        self._unfrozen = unfrozen

    def read_as_given(self) -> None:
        """Makes adapters read a layer's input in the type it has, for where `torch.autocast` chooses that of products.

        Else each copies its input into float32 first: twice the bytes of everything that is read, and kept.
        """
        for name in self.names:
            self._backbone.stock.get_submodule(name).cast_input_dtype_enabled = False

    def merge(self) -> None:
        """Folds the adapters and the mask token's row into the weights, which leaves a stock model again.

        Raises `E_TRAINING_DIVERGED`, with nothing merged, if a trained weight is not finite.
        """
        stock = self._backbone.stock
        if not all(weight.isfinite().all() for weight in stock.parameters() if weight.requires_grad):
            raise TrainingError("E_TRAINING_DIVERGED", "an adapter has weights that are not finite")
        for name in self.names:
            adapted = stock.get_submodule(name)
            adapted.merge()
            hand_over(adapted, adapted.base_layer)
            stock.set_submodule(name, adapted.base_layer)
        del stock.peft_config
        self._mask_row.merge()
        for weight in self._unfrozen:
            weight.requires_grad_(True)


def add_adapter(backbone: Backbone, options: LoraOptions) -> Adapter:
    """Returns the handle of new adapters in a backbone that is otherwise frozen; what it computes does not change yet.

    Adapters start from torch's current random state. Their weights are float32, whatever the backbone's are.
    """
    stock = backbone.stock
    unfrozen = [weight for weight in stock.parameters() if weight.requires_grad]
    names = tuple(backbone.linear_targets(vision=options.vision))
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # `peft` says int, but only divides it by the rank.
        lora_dropout=options.dropout,
        use_dora=options.dora,
        init_lora_weights="gaussian",  # A is random, B is 0.
        target_modules=list(names),
    )
    stock.requires_grad_(False)
    inject_adapter_in_model(config, stock, _PEFT_NAME)
    for name in names:
        adapted = stock.get_submodule(name)
        _in_float32(adapted)
        hand_over(adapted.base_layer, adapted)
        # New modules are in training mode: their dropout would act in a model that is not.
        adapted.train(adapted.base_layer.training)
    return Adapter(backbone, names, _MaskRow(stock, backbone.text.control.mask), unfrozen)


def _in_float32(adapted: Any) -> None:
    for part in (adapted.lora_A, adapted.lora_B):
        part.float()
    for name in adapted.lora_magnitude_vector:
        adapted.lora_magnitude_vector[name] = _RowLengths(adapted.base_layer.weight.data)


class _RowLengths(DoraLinearLayer):
    """The trained length of each row of an adapted weight, beside the rows' present lengths, both in float32.

    `peft` measures rows in the weight's own type. Lengths rounded to bfloat16 would change the model from the start by
    as much as bfloat16 itself does, and what is learnt around that error would stay when the adapter is merged.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__(fan_in_fan_out=False)  # type: ignore[no-untyped-call]
        self.weight = nn.Parameter(torch.linalg.norm(weight, dim=1, dtype=torch.float32))

    def get_weight_norm(
        self, weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None
    ) -> Tensor:
        """Returns the length of each row of the adapted weight, float32 or as exact as the weight."""
        adapted = weight + scaling * lora_weight
        lengths: Tensor = torch.linalg.norm(adapted, dim=1, dtype=torch.promote_types(adapted.dtype, torch.float32))
        return lengths


class _MaskRow:
    """The mask token's embedding as a float32 weight of its own, also seen by a head that shares the embedding.

    `peft` can train single rows too, but makes a copy of the whole embedding, and its gradient, at every step.
    """

    def __init__(self, stock: Any, token: int) -> None:
        self._token = token
        self._embedding = stock.get_input_embeddings()
        head = stock.get_output_embeddings()
        hooks = {self._embedding: partial(_embed_mask, token)}
        if head.weight is self._embedding.weight:
            hooks[head] = partial(_score_mask, token)
        row = nn.Parameter(self._embedding.weight.data[token].to(torch.float32, copy=True))
        for module in hooks:
            module.register_parameter("mask_row", row)
        self._hooks = {module: module.register_forward_hook(hook) for module, hook in hooks.items()}

    def merge(self) -> None:
        """Writes the row into the embedding, and removes itself."""
        self._embedding.weight.data[self._token] = self._embedding.mask_row.data.to(self._embedding.weight.dtype)
        for module, hook in self._hooks.items():
            hook.remove()
            del module.mask_row


def _embed_mask(token: int, embedding: Any, inputs: tuple[Tensor], embedded: Tensor) -> Tensor:
    return torch.where((inputs[0] == token)[..., None], embedding.mask_row.to(embedded.dtype), embedded)


def _score_mask(token: int, head: Any, inputs: tuple[Tensor], scores: Tensor) -> Tensor:
    # In place: scores over the whole vocabulary are the largest tensor of a step.
    scores[..., token] = inputs[0] @ head.mask_row.to(inputs[0].dtype)
    return scores
