"""What a stage's forward passes cost: bytes held, and floating-point operations, found on fake tensors.

Shapes: N lines of S padded tokens, P patches, L decoder layers, V blocks of the vision tower.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor

from cocoa.backbones import Backbone
from cocoa.planning.passes import Kind, Pass, Step
from cocoa.planning.standin import Depth
from cocoa.planning.tracing import Moment, Trace, fake_trainee, trace
from cocoa.recipe import MachineOptions, Recipe, Stage
from cocoa.training.contrast import block_size
from cocoa.training.trainee import Trainee

_EXACT_DEPTH = 12
_EXACT_PLACES = 8192
"""Models and passes up to this size are traced whole; larger ones are traced in part, because that takes seconds."""
_PART_PLACES = 1024


@dataclass(frozen=True)
class Flops:
    """FLOPs of a forward or backward pass for each unit of work: a decoder layer's for each token and each look of a
    token at a token, a vision block's for each patch and each look of a patch at a patch, all others' for each token,
    each patch (its embedding and what merges it), each line (the last layer's for e alone) and each look."""

    layer: float = 0.0
    layer_look: float = 0.0
    block: float = 0.0
    block_look: float = 0.0
    rest: float = 0.0
    rest_patch: float = 0.0
    rest_line: float = 0.0
    rest_look: float = 0.0

    def tower(self, part: Pass, depth: Depth) -> float:
        """Returns the FLOPs of the vision blocks in a pass."""
        return depth.blocks * (self.block * part.patches + self.block_look * part.patch_area)

    def of(self, part: Pass, depth: Depth) -> float:
        """Returns the FLOPs of a pass."""
        layers = depth.layers * (self.layer * part.places + self.layer_look * part.area)
        rest = self.rest * part.places + self.rest_patch * part.patches + self.rest_line * len(part.lines)
        return layers + self.tower(part, depth) + rest + self.rest_look * part.area


class Costs:
    """The costs of a stage on one rank, on a backbone whose weights need not be there."""

    def __init__(self, backbone: Backbone, recipe: Recipe, stage: Stage) -> None:
        self._backbone, self._recipe, self._stage = backbone, recipe, stage
        self.depth = Depth.of(backbone)
        self._beyond: dict[object, int] = {}
        self._flops: dict[Kind, tuple[Flops, Flops]] = {}

    @cached_property
    def trainee(self) -> Trainee:
        """The stage's trainee, its weights without content."""
        return fake_trainee(self._backbone, self._recipe, self._stage)

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return sum(weight.nbytes for weight in self.trainee.parameters())

    @property
    def gradients(self) -> int:
        """Bytes of the trained weights' gradients."""
        return sum(weight.nbytes for weight in self.trainee.trained.values())

    @property
    def optimiser(self) -> int:
        """Bytes of what AdamW keeps: two numbers a trained weight, and a count for each tensor."""
        return 2 * self.gradients + 4 * len(self.trainee.trained)

    @property
    def gathered(self) -> int:
        """Bytes that are whole at the worst moment of a step whose weights are split over ranks, beside the shares.

        Two layers are: one computes while the next is gathered. All outside the layers (the vision tower, embeddings,
        head, the objectives' own weights) is from the first pass to the end of the last, and so are its gradients.
        """
        layers = [list(layer.parameters()) for layer in self.trainee.model.backbone.layers]
        inside = {id(weight) for layer in layers for weight in layer}
        outside = [weight for weight in self.trainee.parameters() if id(weight) not in inside]
        learns = [weight for weight in outside if weight.requires_grad]
        return 2 * max(map(_bytes, layers)) + _bytes(outside) + _bytes(learns)

    @property
    def in_float32(self) -> int:
        """Bytes of the model's weights as float32, without adapters and the objectives' own."""
        return sum(weight.numel() for weight in self._backbone.parameters()) * torch.float32.itemsize

    def beyond(self, step: Step, machine: MachineOptions, ranks: int = 1) -> int:
        """Returns the bytes at the worst moment of a step, beside weights and optimiser: gradients, what the backward
        pass needs, and temporaries. All of the `ranks` have as many candidates."""
        accumulates = len(step.passes) + len(step.apart) > 1
        groups = [[part] for part in _largest(step.joined)]
        decoders = _largest(step.apart)
        if step.single and step.fits(machine):
            # Their graphs are all held at once, also while a decoder reads the vectors; gradients come from the first
            # backward pass on.
            groups.append([*decoders, *step.single])
        else:
            groups += [[part] for part in (*decoders, *_largest(step.single))]
        peaks = [self._peak(group, accumulates and len(group) == 1) for group in groups]
        if not step.single:
            return max(peaks)
        contrast = self.contrast(step.num_pairs, ranks * step.num_candidates)
        if step.fits(machine):
            peaks[-1] += contrast
            return max(peaks)
        return self._kept_pictures(step.single) + max(*peaks, contrast + (self.gradients if step.joined else 0))

    def contrast(self, num_queries: int, num_candidates: int) -> int:
        """Returns the bytes of finding queries' targets among the candidates of all ranks: scores and what is made of
        them, once more for each Matryoshka length, and vectors; or later vectors and gradients alone."""
        lengths = sum(len(options.dimensions) for options in self._stage.objectives if options.kind == "contrastive")
        scores = min(num_queries, block_size(num_candidates)) * num_candidates
        vector = self._backbone.hidden_size * torch.float32.itemsize
        return max(
            (13 + 4 * lengths) * scores + 4 * num_candidates * vector, (7 * num_candidates + num_queries) * vector
        )

    def _kept_pictures(self, passes: list[Pass]) -> int:
        """The bytes of what a frozen tower saw, which gradient caching keeps from the first pass for the second."""
        if self.trainee.trains_vision or not passes:
            return 0
        tokens = sum(part.patches for part in passes) // self._backbone.grid.patches_per_token
        layers = 1 + len(getattr(self._backbone.stock.config.vision_config, "deepstack_visual_indexes", ()))
        size = torch.bfloat16.itemsize if self.trainee.mixed else torch.float32.itemsize
        return tokens * layers * self._backbone.hidden_size * size

    def _peak(self, group: list[Pass], accumulates: bool) -> int:
        sizes = ((part.kind, len(part.lines), part.length, part.patches, part.places_aside) for part in group)
        key = (accumulates, *sizes)
        if key not in self._beyond:
            places = sum(part.places + part.places_aside for part in group)
            if self.depth.layers + self.depth.blocks <= _EXACT_DEPTH and places <= _EXACT_PLACES:
                self._beyond[key] = self._trace(group, accumulates=accumulates).peak
            else:
                self._beyond[key] = self.gradients + sum(self._estimate(part) for part in group)
        return self._beyond[key]

    def _estimate(self, part: Pass) -> int:
        """The bytes of a pass beside gradients, from traces of few layers and lines: at each moment of a step both add
        bytes evenly, but not at the worst one, which is another in a deep model or a large pass."""
        few = _few(part)
        if len(part.lines) <= 2 * few:
            return round(max(self._at_depth(part).values()))
        one, two = self._at_depth(part.part(few)), self._at_depth(part.part(2 * few))
        more = (len(part.lines) - few) / few
        return round(max(one[moment] + (two[moment] - one[moment]) * more for moment in one))

    def _at_depth(self, part: Pass) -> dict[Moment, float]:
        # The first of several layers is not like the last, in which e alone goes on.
        layers, blocks = (2 if number > 2 else 1 for number in (self.depth.layers, self.depth.blocks))

        def bytes_at(depth: Depth) -> dict[Moment, int]:
            traced = self._trace([part], depth=depth, accumulates=True)
            return {moment: peak - traced.gradients for moment, peak in traced.peaks.items()}

        shallow, deeper, seeing = (
            bytes_at(Depth(layers + more, blocks + others)) for more, others in ((0, 0), (1, 0), (0, 1))
        )
        return {
            moment: shallow[moment]
            + (deeper[moment] - shallow[moment]) * (self.depth.layers - layers)
            + (seeing[moment] - shallow[moment]) * (self.depth.blocks - blocks)
            for moment in shallow
        }

    def _trace(self, passes: list[Pass], *, depth: Depth | None = None, accumulates: bool = False) -> Trace:
        return trace(self._backbone, self._recipe, self._stage, passes, depth=depth, accumulates=accumulates)

    def flops(self, step: Step, machine: MachineOptions, depth: Depth | None = None) -> float:
        """Returns the FLOPs of a step's forward and backward passes, gradient caching's second pass included."""
        depth = depth or self.depth
        total = 0.0
        parts = (*step.passes, *step.apart)
        units = {kind: self._units(step, kind) for kind in {part.kind for part in parts}}
        for part in parts:
            forward, backward = units[part.kind]
            total += forward.of(part, depth) + backward.of(part, depth)
            if part.kind == "single" and not step.fits(machine):
                total += forward.of(part, depth)
                if not self.trainee.trains_vision:
                    total -= forward.tower(part, depth)
        return total

    def _units(self, step: Step, kind: Kind) -> tuple[Flops, Flops]:
        parts = [part for part in (*step.passes, *step.apart) if part.kind == kind]
        has_pictures = any(part.patches for part in parts)
        if kind not in self._flops or (has_pictures and not self._flops[kind][0].block):
            first, *others = (part.part(_few(part)) for part in _unlike(parts))
            depths = [self._trace([first], depth=depth) for depth in _DEPTHS]
            samples = [first, *others]
            shallow = [depths[0], *(self._trace([part], depth=_DEPTHS[0]) for part in others)]
            self._flops[kind] = (
                _units_of(samples, [one.forward for one in depths], [one.forward for one in shallow]),
                _units_of(samples, [one.backward for one in depths], [one.backward for one in shallow]),
            )
        return self._flops[kind]


def _bytes(weights: Iterable[Tensor]) -> int:
    return sum(weight.nbytes for weight in weights)


_DEPTHS = (Depth(1, 1), Depth(2, 1), Depth(1, 2))


def _few(part: Pass) -> int:
    """The number of a pass's lines that are traced of a large one."""
    return max(1, _PART_PLACES // max(part.length, part.length_aside))


def _largest(passes: list[Pass]) -> list[Pass]:
    """The passes that may need the most memory: of the most tokens read, or decoded apart, and of the most patches."""
    if not passes:
        return []
    chosen: list[Pass] = []
    for size in map(attrgetter, ("places", "patches", "places_aside")):
        most = max(passes, key=size)
        if all(size(other) < size(most) for other in chosen):
            chosen.append(most)
    return chosen


def _unlike(passes: list[Pass]) -> list[Pass]:
    """The pass with the most patches, and the ones with the shortest, middle and longest lines."""
    ordered = sorted(passes, key=lambda part: part.length)
    chosen = [max(passes, key=lambda part: part.patches), ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    return list({id(part): part for part in chosen}.values())


def _units_of(parts: list[Pass], depths: list[Counter[str]], shallow: list[Counter[str]]) -> Flops:
    """The units that explain the first part at several depths, and all parts (`shallow`) at the first of these."""
    part = parts[0]
    one, deeper, seeing = depths
    layer, layer_look = (deeper[kind] - one[kind] for kind in ("other", "attention"))
    block, block_look = (seeing[kind] - one[kind] for kind in ("other", "attention"))
    units = Flops(
        layer=layer / part.places,
        layer_look=layer_look / part.area,
        block=block / max(1, part.patches),
        block_look=block_look / max(1, part.patch_area),
        rest_look=(one["attention"] - layer_look - block_look) / part.area,
    )
    sizes = np.array([[each.places, each.patches, len(each.lines)] for each in parts], dtype=float)
    rest = [
        count["other"] - units.layer * each.places - units.block * each.patches
        for each, count in zip(parts, shallow, strict=True)
    ]
    # In shares of each part, so that a small one counts as much as a large one; of the answers the smallest, where the
    # parts are too alike to say.
    scale = sizes.max(axis=0).clip(min=1.0)
    weight = 1 / sizes[:, :1]
    found = np.linalg.lstsq(sizes / scale * weight, np.array(rest) * weight[:, 0], rcond=None)[0] / scale
    return replace(units, rest=float(found[0]), rest_patch=float(found[1]), rest_line=float(found[2]))
