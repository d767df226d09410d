"""What the vision tower saw: the language model may be given it again, and hidden pixels are nowhere in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cocoa.backbones import Backbone, Kind, Seen
from cocoa.backbones.families import FAMILIES
from cocoa.batch import Batch, collate, joined_row
from cocoa.layouts import LAYOUTS
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]
every_family = pytest.mark.parametrize("family", FAMILIES)
both_backends = pytest.mark.parametrize("attention", ["sdpa", "eager"])


@pytest.fixture
def chosen(sample: MakeSample) -> list[tuple[Sample, Sample]]:
    return [
        (sample("what is this", (60, 80)), sample("a red apple")),
        (sample("<|image_2|> left of <|image_1|> ?", (90, 57), (56, 56), seed=1), sample("a cat and a dog sleep")),
    ]


def rows(backbone: Backbone, chosen: list[tuple[Sample, Sample]]) -> Batch:
    encoded = [(backbone.encode(query), backbone.encode(target)) for query, target in chosen]
    return collate(backbone, [joined_row(backbone, q, t, 200, bridged=True) for q, t in encoded])


def states(backbone: Backbone, batch: Batch, *, seen: Seen | None = None, layout: str = "eos_bridge") -> Tensor:
    pictures = () if seen else (batch.pixel_values, batch.image_grid_thw)
    allowed = LAYOUTS[layout].allowed(batch.roles)
    return backbone.hidden_states(batch.input_ids, batch.kinds, allowed, batch.position_ids, *pictures, seen=seen)


@torch.no_grad()
def see(backbone: Backbone, batch: Batch) -> Seen:
    return backbone.see(batch.pixel_values, batch.image_grid_thw)


def fail(*_: object) -> None:
    raise AssertionError("the vision tower was run again")


@every_family
@both_backends
def test_what_was_seen_gives_the_states_that_the_pictures_give(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str, attention: str
) -> None:
    backbone = tiny(attention, family=family)
    batch = rows(backbone, chosen)
    seen = see(backbone, batch)
    num_visual = int((batch.kinds == Kind.IMAGE).sum())
    assert {layer.shape for layer in (seen.features, *seen.deepstack)} == {(num_visual, backbone.hidden_size)}
    assert len(seen.deepstack) == (2 if family == "qwen3_vl" else 0)
    with torch.no_grad():
        expected = states(backbone, batch)
        backbone.vision.register_forward_pre_hook(fail)
        assert torch.equal(states(backbone, batch, seen=seen), expected)


@every_family
@both_backends
def test_the_states_are_those_of_the_stock_model_under_the_same_mask(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str, attention: str
) -> None:
    backbone = tiny(attention, family=family)
    batch = rows(backbone, chosen)
    with torch.no_grad():
        stock = backbone.stock.model(
            input_ids=batch.input_ids,
            attention_mask=backbone.attention_mask(LAYOUTS["eos_bridge"].allowed(batch.roles)),
            position_ids=batch.position_ids,
            pixel_values=backbone.grid.normalised(batch.pixel_values),
            image_grid_thw=batch.image_grid_thw,
            mm_token_type_ids=(batch.kinds == Kind.IMAGE).int(),
            use_cache=False,
        )
        assert torch.equal(states(backbone, batch), stock.last_hidden_state)


@every_family
def test_going_backward_through_what_was_seen_reaches_the_pixels_as_without(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str
) -> None:
    backbone = tiny(family=family)
    batch = rows(backbone, chosen)
    gradients = []
    for by_hand in (False, True):
        pixels = backbone.grid.normalised(batch.pixel_values).requires_grad_()
        now = batch.replace(pixel_values=pixels)
        seen = backbone.see(pixels, batch.image_grid_thw) if by_hand else None
        states(backbone, now, seen=seen).square().sum().backward()
        gradients.append(pixels.grad)
    assert torch.equal(*gradients)
    assert (gradients[0].abs().amax(1) > 0).all()


@every_family
def test_what_was_seen_of_other_pictures_is_refused(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str
) -> None:
    backbone = tiny(family=family)
    seen = see(backbone, rows(backbone, chosen[:1]))
    with pytest.raises(ValueError, match="visual tokens seen"):
        states(backbone, rows(backbone, chosen), seen=seen)


def hidden_patches(backbone: Backbone, batch: Batch) -> Tensor:
    """Returns bool [P]: the patches of every second visual token, as the masked-patch objective hides whole tokens."""
    per_token = backbone.grid.patches_per_token
    return (torch.arange(len(batch.pixel_values)) // per_token) % 2 == 0


@every_family
@both_backends
def test_hidden_pixels_change_no_state_whatever_was_there(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str, attention: str
) -> None:
    backbone = tiny(attention, family=family)
    batch = rows(backbone, chosen)
    torch.manual_seed(2)
    hidden = hidden_patches(backbone, batch)
    given = backbone.grid.normalised(batch.pixel_values)
    noise, other = torch.randn_like(given), torch.randn_like(given)
    results = []
    for pixels in (given, torch.where(hidden[:, None], other, given)):
        # The same model reads the open pictures first: nothing of them may stay behind in it.
        opened = states(backbone, batch.replace(pixel_values=pixels)).detach()
        covered = batch.replace(pixel_values=torch.where(hidden[:, None], noise, pixels))
        seen = see(backbone, covered)
        results.append((opened, [states(backbone, covered).detach(), seen.features, *seen.deepstack]))
    (opened, covered), (opened_other, covered_other) = results
    assert not torch.equal(opened, opened_other), "while they are open they matter"
    for one, same in zip(covered, covered_other, strict=True):
        assert float((one - same).abs().max()) == 0.0


@every_family
def test_hidden_pixels_have_no_gradient_and_all_others_do(
    tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str
) -> None:
    backbone = tiny(family=family)
    batch = rows(backbone, chosen)
    hidden = hidden_patches(backbone, batch)
    pixels = backbone.grid.normalised(batch.pixel_values).requires_grad_()
    covered = torch.where(hidden[:, None], torch.zeros_like(pixels), pixels)
    states(backbone, batch.replace(pixel_values=covered)).square().sum().backward()
    assert torch.count_nonzero(pixels.grad[hidden]) == 0
    assert (pixels.grad[~hidden].abs().amax(1) > 0).all()


@every_family
def test_one_picture_is_not_seen_in_another(tiny: Tiny, chosen: list[tuple[Sample, Sample]], family: str) -> None:
    backbone = tiny(family=family)
    batch = rows(backbone, chosen)
    first = int(batch.image_grid_thw[0].prod())
    changed = batch.pixel_values.clone()
    changed[:first] += 1
    before, after = see(backbone, batch), see(backbone, batch.replace(pixel_values=changed))
    end = first // backbone.grid.patches_per_token
    for one, other in zip((before.features, *before.deepstack), (after.features, *after.deepstack), strict=True):
        assert torch.equal(one[end:], other[end:])
        assert (one[:end] != other[:end]).any(1).all()
