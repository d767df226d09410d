"""From a model folder or hub id to a backbone, or why not: weights come from their file, and no code from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig, Qwen2VLImageProcessorPil

from cocoa.backbones.attention import stock_attention
from cocoa.backbones.families import FAMILIES
from cocoa.backbones.patches import PatchGrid
from cocoa.backbones.qwen_vl import Backbone, without_bars
from cocoa.backbones.tokens import TextTokens
from cocoa.errors import ModelError

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_MOST_LAYERS = 1_000
"""Of both towers; they are built before the file with the weights is opened, and the largest models have 150."""
_LARGEST_PATCH = 256
"""Side of a patch in pixels, patches of a token's side, frames; usual are 14, 2 and 2."""


def load_backbone(
    name_or_path: str,
    *,
    revision: str | None = None,
    attention: str = "split",
    dtype: torch.dtype = torch.float32,
    weights: bool = True,
) -> Backbone:
    """Returns the backbone of a model folder or hub id, in evaluation mode; no code of its own is ever run.

    `revision` is a hub id's commit, tag or branch. Without `weights` none are looked for: its parameters have shapes
    and no values (torch's meta device). Raises `ModelError`: `E_MODEL_MISSING` (nothing there), `E_MODEL_REVISION`
    (one of a folder), `E_MODEL_FAMILY` (not a family of this package), `E_MODEL_WEIGHTS` (a weight is missing,
    unexpected or of another shape, and the message names it; or they are quantized), `E_MODEL_TOKENIZER`,
    `E_MODEL_FORMAT` (settings that cannot be used).
    """
    commit = None
    if not Path(name_or_path).is_dir():
        # All is read from one commit, whatever is pushed meanwhile.
        commit = revision = _commit(name_or_path, revision)
    elif revision is not None:
        raise ModelError("E_MODEL_REVISION", f"{name_or_path!r} is a folder, and only a model on the hub has revisions")
    config = _configuration(name_or_path, revision)
    if weights:
        stock = _with_weights(name_or_path, revision, attention, dtype)
    else:
        with _used("config.json", name_or_path), torch.device("meta"):
            stock = AutoModelForImageTextToText.from_config(
                config, attn_implementation=stock_attention(attention), dtype=dtype, trust_remote_code=False
            )
    text = TextTokens.load(name_or_path, revision=revision)
    grid = _patch_grid(name_or_path, revision)
    with _used("config.json", name_or_path):
        return Backbone(stock, text, grid, commit).eval()


def _commit(name: str, revision: str | None) -> str:
    """Returns the commit that a revision of a hub id is at, or its newest; offline that of the copy that is here."""
    if "/" not in name:
        # No family of this package has such an id, and the hub would be asked six times.
        what = f"no backbone {name!r}: neither nano, nano-untrained nor a folder here; on the hub it is OWNER/NAME"
        raise ModelError("E_MODEL_MISSING", what)
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name
    except Exception as error:  # The hub's client raises its own, its HTTP library's and the system's.
        raise _no_configuration(name, error) from error


def _no_configuration(name_or_path: str, error: Exception) -> ModelError:
    message = f"no model configuration at {name_or_path!r} (folder or hub id): {_first_line(error)}"
    return ModelError("E_MODEL_MISSING", message)


def _configuration(name_or_path: str, revision: str | None) -> PretrainedConfig:
    """Returns the stock configuration of a family of this package."""
    try:
        # As plain settings first: another family's own code must not come near.
        settings, _ = PretrainedConfig.get_config_dict(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise _no_configuration(name_or_path, error) from error
    except Exception as error:  # As in `_used`.
        raise _no_use("config.json", name_or_path, error) from error
    found = settings.get("model_type") if isinstance(settings, dict) else None
    if not isinstance(found, str):
        what = f"no model configuration at {name_or_path!r}: there is no config.json that names a model_type"
        raise ModelError("E_MODEL_MISSING", what)
    if found not in FAMILIES:
        raise ModelError(
            "E_MODEL_FAMILY",
            f"{name_or_path!r} is a {found!r} model; supported: "
            + ", ".join(f"{family.model_type} (as {family.example})" for family in FAMILIES.values()),
        )
    if "quantization_config" in settings:
        message = f"{name_or_path!r} has quantized weights (quantization_config); training needs the full ones"
        raise ModelError("E_MODEL_WEIGHTS", message)
    with _used("config.json", name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
        assert isinstance(config, PretrainedConfig)
        if (layers := config.text_config.num_hidden_layers + config.vision_config.depth) > _MOST_LAYERS:
            raise ValueError(f"{layers} layers, more than {_MOST_LAYERS}")
    return config


@contextmanager
def _used(file: str, name_or_path: str) -> Iterator[None]:
    """Says which file it was whose settings the stock code cannot use: it checks few, and raises nearly anything."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise _no_use(file, name_or_path, error) from error


def _no_use(file: str, name_or_path: str, error: Exception) -> ModelError:
    message = f"{file} of {name_or_path!r} cannot be used: {type(error).__name__}: {_first_line(error)}"
    return ModelError("E_MODEL_FORMAT", message)


def _with_weights(name_or_path: str, revision: str | None, attention: str, dtype: torch.dtype) -> Any:
    """Returns the stock model with every weight from the file and from nowhere else."""
    try:
        with without_bars():
            stock, report = AutoModelForImageTextToText.from_pretrained(
                name_or_path,
                revision=revision,
                trust_remote_code=False,
                dtype=dtype,
                attn_implementation=stock_attention(attention),
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # They are refused below, by name.
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            "E_MODEL_WEIGHTS", f"weights of {name_or_path!r} cannot be read: {_first_line(error)}"
        ) from error
    # A silent random weight is the worst failure there is, so anything that does not match refuses.
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in report.get(trouble, ())):
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise ModelError("E_MODEL_WEIGHTS", f"{name_or_path!r} has {trouble.replace('_', ' ')}: {shown}")
    return stock


def check_weights(name_or_path: str) -> None:
    """Raises `E_MODEL_WEIGHTS` for a folder without files of weights, or with one cut short; reads none of them.

    Of anything but a folder nothing is known before it is fetched.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        return
    listed = folder / _INDEX
    is_sharded = listed.is_file() and not (folder / _WEIGHTS).is_file()
    try:
        names = set(json.loads(listed.read_text())["weight_map"].values()) if is_sharded else {_WEIGHTS}
        for name in sorted(names):
            with safe_open(folder / name, "pt"):
                """Its header is read, and held against its length."""
    except Exception as error:  # As of what reads them: `json`, an index of another shape, safetensors, the system.
        raise ModelError(
            "E_MODEL_WEIGHTS", f"weights of {name_or_path!r} cannot be read: {_first_line(error)}"
        ) from error


def _patch_grid(name_or_path: str, revision: str | None) -> PatchGrid:
    try:
        # The one class behind all families; older versions' way to find it by name wants torchvision.
        stock = Qwen2VLImageProcessorPil.from_pretrained(name_or_path, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            "E_MODEL_MISSING", f"no preprocessor_config.json at {name_or_path!r}: {_first_line(error)}"
        ) from error
    except Exception as error:  # As in `_used`.
        raise _no_use("preprocessor_config.json", name_or_path, error) from error
    with _used("preprocessor_config.json", name_or_path):
        grid = PatchGrid(
            min_pixels=int(stock.size["shortest_edge"]),
            max_pixels=int(stock.size["longest_edge"]),
            patch_size=int(stock.patch_size),
            merge_size=int(stock.merge_size),
            temporal_patch_size=int(stock.temporal_patch_size),
            mean=tuple(stock.image_mean),
            std=tuple(stock.image_std),
        )
        _check_grid(grid)
    return grid


def _check_grid(grid: PatchGrid) -> None:
    sizes = (grid.patch_size, grid.merge_size, grid.temporal_patch_size)
    if not (0 < grid.min_pixels <= grid.max_pixels and min(sizes) > 0 and max(sizes) <= _LARGEST_PATCH):
        raise ValueError("sizes of pictures or patches that cannot be")
    if not len(grid.mean) == len(grid.std) == 3 or not all(0 < value < 1e3 for value in grid.std):
        raise ValueError("image_mean and image_std are not of three colours")
    if not all(abs(value) < 1e3 for value in grid.mean):
        raise ValueError("image_mean is of no colour")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
