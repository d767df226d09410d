"""The nano backbone: a Qwen2-VL of 1.5 million parameters that ships with the package.

It is first trained as an ordinary causal captioner and question answerer on generated scenes
(`recipes/nano-backbone.yaml`) and stands where a pretrained Qwen2-VL stands for real users.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import as_file, files

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from cocoa.backbones.attention import stock_attention
from cocoa.backbones.loading import load_backbone
from cocoa.backbones.patches import PatchGrid
from cocoa.backbones.qwen_vl import Backbone
from cocoa.backbones.tokens import TextTokens

NANO = "nano"
NANO_UNTRAINED = "nano-untrained"
NANO_GRID = PatchGrid(min_pixels=56 * 56, max_pixels=84 * 84)

CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|mask|>",
)
# Words keep the space before them, digits stand alone: Qwen2's own split, without its contractions.
_WORDS = r" ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = 2048) -> TextTokens:
    """Returns a byte-level BPE tokenizer of the texts with Qwen2-VL's control tokens at ids 0 to 7."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    stock = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=[name for name in CONTROL if name not in ("<|endoftext|>", "<|im_end|>")],
    )
    return TextTokens(stock)


def new_nano(
    text: TextTokens,
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    vision_size: int = 96,
    num_vision_layers: int = 2,
    grid: PatchGrid = NANO_GRID,
    attention: str = "split",
) -> Backbone:
    """Returns an untrained backbone of this small shape; weights come from torch's current random state."""
    control = text.control
    # 0.02, the stock value, is made for widths of thousands: here it leaves every layer near zero, and what a picture
    # shows is found much later.
    spread = hidden_size**-0.5
    pairs = hidden_size // 4 // 2  # rotary pairs of one of four heads, shared out to time, rows, columns as in Qwen2-VL
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(text.stock),
            "hidden_size": hidden_size,
            "intermediate_size": 3 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [pairs - 2 * (3 * pairs // 8), 3 * pairs // 8, 3 * pairs // 8],
            },
            "bos_token_id": control.pad,
            "eos_token_id": control.bridge,
            "pad_token_id": control.pad,
            "tie_word_embeddings": True,
            "initializer_range": spread,
        },
        vision_config={
            "initializer_range": spread,
            "depth": num_vision_layers,
            "embed_dim": vision_size,
            "hidden_size": hidden_size,
            "num_heads": 4,
            "mlp_ratio": 3,
            "patch_size": grid.patch_size,
            "spatial_merge_size": grid.merge_size,
            "temporal_patch_size": grid.temporal_patch_size,
        },
        image_token_id=control.image,
        video_token_id=text.stock.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=control.vision_start,
        vision_end_token_id=control.vision_end,
        tie_word_embeddings=True,
        attn_implementation=stock_attention(attention),
    )
    return Backbone(Qwen2VLForConditionalGeneration(config).eval(), text, grid)


def load_nano(*, attention: str = "split", trained: bool = True, weights: bool = True) -> Backbone:
    """Returns the shipped nano backbone, or a random one of its shape with its tokenizer, or its shape alone."""
    with as_file(files("cocoa") / "assets" / "nano") as folder:
        if trained or not weights:
            return load_backbone(str(folder), attention=attention, weights=weights)
        return new_nano(TextTokens.load(str(folder)), attention=attention)
