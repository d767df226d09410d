"""Adapters: what they change, what they leave alone, and that merging loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from cocoa.adapters import Adapter, LoraOptions, add_adapter
from cocoa.backbones import Backbone, load_backbone
from cocoa.backbones.nano import load_nano
from cocoa.batch import Batch, collate, joined_row
from cocoa.errors import TrainingError
from cocoa.layouts import Role
from cocoa.model import EmbeddingModel
from cocoa.sample import Sample

Tiny = Callable[..., Backbone]
MakeSample = Callable[..., Sample]

LORA = LoraOptions(dora=False)
DORA = LoraOptions()
both = pytest.mark.parametrize("options", [LORA, DORA], ids=["lora", "dora"])
either_head = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


@dataclass(frozen=True)
class Task:
    """Rows in which words are hidden behind the mask token, and what they are."""

    batch: Batch
    places: Tensor
    words: Tensor


def make_task(backbone: Backbone, sample: MakeSample) -> Task:
    """Returns two rows with texts and pictures, every second word hidden."""
    pairs = [
        (sample("How many birds are there?", (60, 80)), sample("two cats and a dog sleep on the green grass")),
        (sample("a red apple"), sample("The picture shows an owl", (56, 56))),
    ]
    rows = [joined_row(backbone, *map(backbone.encode, pair), 200, bridged=True) for pair in pairs]
    batch = collate(backbone, rows)
    places = batch.is_text & (torch.arange(batch.input_ids.shape[1]) % 2 == 1)
    assert places.sum() > 5
    masked = batch.replace(input_ids=batch.input_ids.masked_fill(places, batch.mask_token))
    return Task(masked, places, batch.input_ids[places])


@pytest.fixture
def task(tiny: Tiny, sample: MakeSample) -> Task:
    return make_task(tiny(), sample)


def states(backbone: Backbone, batch: Batch) -> Tensor:
    """Returns the states when every token may look at every other."""
    real = batch.roles != Role.PAD
    allowed = (real[:, :, None] & real[:, None, :] | torch.eye(real.shape[1], dtype=torch.bool))[:, None]
    return backbone.hidden_states(
        batch.input_ids, batch.kinds, allowed, batch.position_ids, batch.pixel_values, batch.image_grid_thw
    )


@torch.no_grad()
def answers(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """Returns states and scores, as they are for use."""
    assert not backbone.stock.training
    seen = states(backbone, batch)
    return seen, backbone.logits(seen)


def trainable(backbone: Backbone) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in backbone.stock.named_parameters() if weight.requires_grad}


def loss(backbone: Backbone, task: Task) -> Tensor:
    before = states(backbone, task.batch)[:, :-1][task.places[:, 1:]]
    return functional.cross_entropy(backbone.logits(before), task.words)


def train(backbone: Backbone, task: Task, *, num_steps: int = 5, lr: float = 1e-3) -> None:
    """Trains what is trainable, and leaves the backbone ready for use."""
    optimiser = torch.optim.AdamW(trainable(backbone).values(), lr=lr, weight_decay=0.1)
    backbone.train()
    for _ in range(num_steps):
        optimiser.zero_grad()
        loss(backbone, task).backward()
        optimiser.step()
    backbone.eval()


def adapted(backbone: Backbone, options: LoraOptions, seed: int = 0) -> Adapter:
    torch.manual_seed(seed)
    return add_adapter(backbone, options)


def without_tie(backbone: Backbone) -> Backbone:
    """Returns the backbone with a head of its own."""
    stock = backbone.stock
    stock.config.tie_word_embeddings = stock.config.text_config.tie_word_embeddings = False
    stock.lm_head.weight = nn.Parameter(stock.lm_head.weight.detach().clone())
    return backbone


def copies(backbone: Backbone) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in backbone.stock.state_dict().items()}


def of_base(name: str) -> str:
    """Returns the name that a weight has without adapters."""
    return name.replace(".base_layer.", ".")


# --- Right after they are added ---


@both
@either_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_adapters_change_nothing(
    tiny: Tiny, task: Task, options: LoraOptions, tied: bool, dtype: torch.dtype
) -> None:
    backbone = (tiny() if tied else without_tie(tiny())).to(dtype)
    before_states, before_scores = answers(backbone, task.batch)
    adapted(backbone, options)
    now_states, now_scores = answers(backbone, task.batch)
    assert torch.equal(now_states, before_states)
    # The mask token's score is a product of its own, which may be rounded differently.
    torch.testing.assert_close(now_scores, before_scores, rtol=1e-6, atol=1e-6)


@both
@pytest.mark.parametrize("in_training", [True, False])
def test_a_model_stays_in_its_mode(tiny: Tiny, options: LoraOptions, in_training: bool) -> None:
    backbone = tiny()
    backbone.stock.train(in_training)
    adapted(backbone, options)
    assert {module.training for module in backbone.stock.modules()} == {in_training}


@both
def test_dropout_acts_in_training_only(tiny: Tiny, task: Task, options: LoraOptions) -> None:
    backbone = tiny()
    adapted(backbone, options)
    train(backbone, task, num_steps=1)
    assert torch.equal(states(backbone, task.batch), states(backbone, task.batch))
    backbone.train()
    assert not torch.equal(states(backbone, task.batch), states(backbone, task.batch))


@both
def test_adapters_come_from_the_current_random_state(tiny: Tiny, options: LoraOptions) -> None:
    first, same, other = tiny(), tiny(), tiny()
    adapted(first, options, seed=3)
    adapted(same, options, seed=3)
    adapted(other, options, seed=4)
    for name, weight in trainable(first).items():
        assert torch.equal(weight, trainable(same)[name])
        assert torch.equal(weight, trainable(other)[name]) is ("lora_A" not in name)
        assert ("lora_B" in name) is (not weight.any())


@pytest.mark.parametrize("vision", [True, False])
def test_the_listed_modules_and_no_others_are_adapted(tiny: Tiny, vision: bool) -> None:
    for backbone in (tiny(), load_nano()):
        expected = backbone.linear_targets(vision=vision)
        adapter = adapted(backbone, LoraOptions(vision=vision))
        in_place = [name.removesuffix(".lora_A") for name, _ in backbone.stock.named_modules() if "lora_A" in name[-6:]]
        assert sorted(adapter.names) == sorted(in_place) == sorted(expected)
        assert any(name.startswith("model.visual.") for name in adapter.names) is vision
        assert any("lora" in name for name, _ in backbone.vision.named_parameters()) is vision


@both
@pytest.mark.parametrize("checkpointed", [False, True])
def test_adapters_of_the_last_layer_read_only_what_is_read_of_it(
    tiny: Tiny, task: Task, options: LoraOptions, checkpointed: bool
) -> None:
    """Before, in and after training, with the vectors and gradients of a pass that reads everything."""
    model = EmbeddingModel(tiny())
    backbone = model.backbone
    if checkpointed:
        backbone.checkpoint_activations()
    hooks = {name: len(module._forward_hooks) for name, module in backbone.stock.named_modules()}
    allowed, places = model.allowed(task.batch), model.pooling.places(task.batch)
    adapter = adapted(backbone, options.model_copy(update={"dropout": 0.0}))
    for name, weight in trainable(backbone).items():
        if "lora_B" in name:
            weight.data.normal_(std=0.01)
    backbone.train()
    attention = backbone.layers[-1].self_attn
    sizes: set[int] = set()
    for part in (attention.q_proj, attention.o_proj):
        for down in part.lora_A.values():
            down.register_forward_pre_hook(lambda _, given: sizes.add(given[0].numel() // given[0].shape[-1]))
    found = []
    for read_at in (None, places):
        sizes.clear()
        backbone.zero_grad()
        vectors = model.states(task.batch, allowed, read_at=read_at).flatten(0, 1)[places]
        (vectors * torch.linspace(-1, 1, backbone.hidden_size)).sum().backward()
        gradient = torch.cat([weight.grad.flatten() for weight in trainable(backbone).values()])
        found.append((vectors.detach(), gradient))
        sizes.discard(backbone.hidden_size)  # DoRA multiplies A with a unit matrix
        assert sizes == {task.batch.roles.numel() if read_at is None else len(places)}
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    assert (found[0][1] - found[1][1]).norm() < 1e-4 * found[0][1].norm()
    adapter.merge()
    assert {name: len(module._forward_hooks) for name, module in backbone.stock.named_modules()} == hooks


# --- Training ---


@both
@either_head
def test_training_moves_all_adapters_and_the_mask_row_and_nothing_else(
    tiny: Tiny, task: Task, options: LoraOptions, tied: bool
) -> None:
    backbone = tiny() if tied else without_tie(tiny())
    stock_names = set(backbone.stock.state_dict())
    adapter = adapted(backbone, options)
    kinds = ["lora_A.default.weight", "lora_B.default.weight"]
    kinds += ["lora_magnitude_vector.default.weight"] if options.dora else []
    row = "model.language_model.embed_tokens.mask_row"
    assert set(trainable(backbone)) == {f"{name}.{kind}" for name in adapter.names for kind in kinds} | {row}

    before = copies(backbone)
    train(backbone, task, num_steps=3)
    after = copies(backbone)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    # The head names the row once more where it shares it.
    assert moved == set(trainable(backbone)) | ({"lm_head.mask_row"} if tied else set())
    assert not {of_base(name) for name in moved} & stock_names


@either_head
def test_only_the_mask_row_takes_memory_for_gradients_of_the_embedding(tiny: Tiny, task: Task, tied: bool) -> None:
    backbone = tiny() if tied else without_tie(tiny())
    adapted(backbone, DORA)
    loss(backbone, task).backward()
    embedding = backbone.stock.get_input_embeddings()
    assert embedding.weight.grad is None and backbone.stock.lm_head.weight.grad is None
    assert embedding.mask_row.shape == embedding.mask_row.grad.shape == (backbone.hidden_size,)
    assert embedding.mask_row.grad.any()


@either_head
def test_the_mask_row_gets_the_gradient_that_it_has_in_the_whole_embedding(tiny: Tiny, task: Task, tied: bool) -> None:
    plain, backbone = (tiny() if tied else without_tie(tiny()) for _ in range(2))
    loss(plain, task).backward()
    adapted(backbone, LORA)
    loss(backbone, task).backward()
    expected = plain.stock.get_input_embeddings().weight.grad[task.batch.mask_token]
    torch.testing.assert_close(backbone.stock.get_input_embeddings().mask_row.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_row_without_the_mask_token_in_it_has_a_gradient_of_zero(tiny: Tiny, task: Task) -> None:
    backbone = without_tie(tiny())
    adapted(backbone, LORA)
    plain = task.batch.replace(
        input_ids=task.batch.input_ids.masked_fill(task.batch.input_ids == task.batch.mask_token, 300)
    )
    states(backbone, plain).sum().backward()
    assert not backbone.stock.get_input_embeddings().mask_row.grad.any()


@both
def test_activation_checkpointing_does_not_change_gradients(tiny: Tiny, task: Task, options: LoraOptions) -> None:
    gradients = []
    for checkpointed in (False, True):
        backbone = tiny()
        adapted(backbone, options)
        train(backbone, task, num_steps=1)
        backbone.train()
        if checkpointed:
            backbone.checkpoint_activations()
        torch.manual_seed(7)  # for dropout
        backbone.zero_grad()
        loss(backbone, task).backward()
        gradients.append({name: weight.grad for name, weight in trainable(backbone).items()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6)


# --- Merging ---


@both
@either_head
def test_merged_equals_unmerged(tiny: Tiny, task: Task, options: LoraOptions, tied: bool) -> None:
    backbone = tiny() if tied else without_tie(tiny())
    start = answers(backbone, task.batch)
    adapter = adapted(backbone, options)
    # The tiny backbone's sharp attentions make much of float32's rounding; here it is seen that there is nothing else.
    backbone.double()
    train(backbone, task)
    before = answers(backbone, task.batch)
    adapter.merge()
    for merged, unmerged, old in zip(answers(backbone, task.batch), before, start, strict=True):
        torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-6)
        assert (merged - old).abs().max() > 1e-2


@both
def test_merged_equals_unmerged_in_a_trained_backbone(sample: MakeSample, options: LoraOptions) -> None:
    backbone = load_nano()
    task = make_task(backbone, sample)
    start = answers(backbone, task.batch)
    adapter = adapted(backbone, options)
    train(backbone, task)
    before = answers(backbone, task.batch)
    adapter.merge()
    for merged, unmerged, old in zip(answers(backbone, task.batch), before, start, strict=True):
        torch.testing.assert_close(merged, unmerged, rtol=1e-5, atol=2e-5)
        assert (merged - old).abs().max() > 1e-2


@both
@either_head
def test_a_merged_backbone_is_a_stock_model_again(tiny: Tiny, task: Task, options: LoraOptions, tied: bool) -> None:
    backbone = tiny() if tied else without_tie(tiny())
    stock, before = backbone.stock, copies(backbone)
    shape = [(name, type(module), set(vars(module))) for name, module in stock.named_modules()]
    hooks = [list(module._forward_hooks.values()) for module in stock.modules()]
    layer = backbone.layers[0]
    adapter = adapted(backbone, options)
    assert backbone.stock is stock and backbone.layers[0] is layer
    train(backbone, task)
    adapter.merge()
    after = copies(backbone)

    assert [(name, type(module), set(vars(module))) for name, module in stock.named_modules()] == shape
    assert [list(module._forward_hooks.values()) for module in stock.modules()] == hooks
    assert all(weight.requires_grad for weight in stock.parameters())
    assert list(after) == list(before)
    assert (stock.lm_head.weight is stock.get_input_embeddings().weight) is tied
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    embeddings = {"model.language_model.embed_tokens.weight"} | ({"lm_head.weight"} if tied else set())
    assert changed == {f"{name}.weight" for name in adapter.names} | embeddings
    for name in embeddings:
        rows = (after[name] != before[name]).any(1).nonzero().flatten()
        assert rows.tolist() == [backbone.text.control.mask]


@both
@either_head
def test_a_merged_backbone_can_be_saved_and_loaded(
    tiny: Tiny, task: Task, tmp_path: Path, options: LoraOptions, tied: bool
) -> None:
    backbone = tiny() if tied else without_tie(tiny())
    adapter = adapted(backbone, options)
    train(backbone, task)
    adapter.merge()
    backbone.save(tmp_path)
    loaded = load_backbone(str(tmp_path))
    for now, then in zip(answers(loaded, task.batch), answers(backbone, task.batch), strict=True):
        assert torch.equal(now, then)


@both
def test_stage_follows_stage(tiny: Tiny, task: Task, options: LoraOptions) -> None:
    backbone = tiny()
    for stage in range(3):
        before = answers(backbone, task.batch)[0]
        adapter = adapted(backbone, options, seed=stage)
        assert torch.equal(answers(backbone, task.batch)[0], before)
        train(backbone, task)
        unmerged = answers(backbone, task.batch)[0]
        adapter.merge()
        torch.testing.assert_close(answers(backbone, task.batch)[0], unmerged, rtol=0, atol=2e-4)  # float32, see above
        assert (unmerged - before).abs().max() > 1e-2


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_weights_follow_the_papers_formula(
    tiny: Tiny, task: Task, options: LoraOptions, dtype: torch.dtype
) -> None:
    backbone = tiny().to(dtype)
    before = copies(backbone)
    adapter = adapted(backbone, options)
    train(backbone, task)
    trained = {name: weight.detach().double() for name, weight in trainable(backbone).items()}
    adapter.merge()
    for name in adapter.names:
        weight = before[f"{name}.weight"].double()  # (out, in)
        down, up = (trained[f"{name}.lora_{part}.default.weight"] for part in "AB")
        assert down.shape == (8, weight.shape[1]) and up.shape == (weight.shape[0], 8)
        expected = weight + 64 / 8 * up @ down
        if options.dora:
            # Equation 5 of the paper; a row of torch's weight is a column there.
            lengths = trained[f"{name}.lora_magnitude_vector.default.weight"]
            assert (lengths - weight.norm(dim=1)).abs().max() > 1e-4
            expected = lengths[:, None] * expected / expected.norm(dim=1, keepdim=True)
        merged = backbone.stock.get_submodule(name).weight
        # Half of the space between two bfloat16 numbers: it was rounded once.
        rtol = 1e-5 if dtype == torch.float32 else 2**-8
        torch.testing.assert_close(merged.double(), expected, rtol=rtol, atol=1e-6)


@both
def test_adapters_of_a_bfloat16_backbone_are_float32_and_merge_into_bfloat16(
    tiny: Tiny, task: Task, options: LoraOptions
) -> None:
    backbone = tiny().bfloat16()
    adapter = adapted(backbone, options)
    assert {weight.dtype for weight in trainable(backbone).values()} == {torch.float32}
    assert backbone.stock.dtype == torch.bfloat16
    train(backbone, task)
    unmerged = answers(backbone, task.batch)[0]
    adapter.merge()
    merged = answers(backbone, task.batch)[0]
    assert {weight.dtype for weight in backbone.parameters()} == {merged.dtype} == {unmerged.dtype} == {torch.bfloat16}
    # As near as weights of 8 bits let two layers of large random weights be.
    assert functional.cosine_similarity(merged.float(), unmerged.float(), dim=-1).mean() > 0.99


def test_a_weight_that_was_frozen_before_stays_frozen(tiny: Tiny) -> None:
    backbone = tiny()
    backbone.vision.requires_grad_(False)
    adapted(backbone, DORA).merge()
    assert not any(weight.requires_grad for weight in backbone.vision.parameters())
    assert all(weight.requires_grad for weight in backbone.stock.model.language_model.parameters())


def test_a_diverged_adapter_is_not_merged(tiny: Tiny) -> None:
    backbone = tiny()
    adapter = adapted(backbone, DORA)
    before = copies(backbone)
    last = backbone.stock.get_submodule(adapter.names[-1])
    last.lora_B["default"].weight.data[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="E_TRAINING_DIVERGED"):
        adapter.merge()
    assert all(torch.equal(weight, before[name]) for name, weight in copies(backbone).items() if "lora" not in name)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"dropout": -0.1}, {"targets": "all"}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LoraOptions(**wrong)
