"""The files that let `SentenceTransformer(folder)` open a model folder: stock modules, no remote code, same vectors.

Stock code reads an input as chat messages; the chat template below renders them into the very row that this package
makes: pictures, text, and the bridge token last. A prompt arrives as a system message; `cocoa:query` stands for the
words of that side, which differ by kind of input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cocoa.prompts import tasks_of
from cocoa.sample import IMAGE_PLACEHOLDER

NAMED = "cocoa:"
"""Begins a stock prompt that names words instead of being words."""
MODULES = "modules.json"
"""The list of stock modules; a folder that has none is not for sentence-transformers."""

_MODULES = "sentence_transformers."
# Stock versions differ in where they look for the type of attention; `config.json` says `is_causal` for all.
_TEMPLATE = """\
{#- Renders one input as cocoa does: pictures, text, bridge token. -#}
{%- set prompts = PROMPTS -%}
{%- set row = namespace(pictures='', text='', prompt='') -%}
{%- for message in messages -%}
  {%- set parts = [{'type': 'text', 'text': message.content}] if message.content is string else message.content -%}
  {%- for part in parts -%}
    {%- if part.type == 'image' -%}
      {%- set row.pictures = row.pictures ~ '<|vision_start|><|image_pad|><|vision_end|>' -%}
    {%- elif part.type == 'text' and message.role == 'system' -%}
      {%- set row.prompt = row.prompt ~ part.text -%}
    {%- elif part.type == 'text' -%}
      {%- set row.text = row.text ~ part.text -%}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{%- if row.prompt.startswith('NAMED') -%}
  {%- set name = row.prompt[NAMED_LENGTH:] -%}
  {%- set kind = 'text' if not row.pictures else 'both' if row.text else 'image' -%}
  {%- set side = name.split('/')[-1] -%}
  {%- set row.prompt = prompts.get(name ~ '/' ~ kind, prompts[side ~ '/' ~ kind]) -%}
{%- endif -%}
{%- if '{text}' not in row.prompt -%}
  {%- set row.prompt = row.prompt ~ '{text}' -%}
{%- endif -%}
{%- if 'PLACEHOLDER' in row.prompt -%}
  {%- set row.prompt = row.prompt.replace('PLACEHOLDER', row.pictures, 1) -%}
{%- else -%}
  {%- set row.prompt = row.pictures ~ row.prompt -%}
{%- endif -%}
{{- row.prompt.replace('{text}', row.text) -}}
{{- '<|im_end|>' -}}"""


def write_stock_files(folder: Path, *, dimensions: int, prompts: Mapping[str, str]) -> None:
    """Writes them into a folder that holds weights, tokenizer and picture settings."""
    modules = {
        "": "base.modules.transformer.Transformer",
        "1_Pooling": "sentence_transformer.modules.pooling.Pooling",
        "2_Normalize": "base.modules.normalize.Normalize",
    }
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": _MODULES + name}
        for number, (path, name) in enumerate(modules.items())
    ]
    states = {"method": "forward", "method_output_name": "last_hidden_state"}
    transformer = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {"text": states, "image": states, "message": {**states, "format": "structured"}},
        # The processor that computes with Pillow, as this package does; the other one's pixels differ.
        "processor_kwargs": {"use_fast": False},
    }
    # e is last, so what pools the last token pools e.
    pooling = {"embedding_dimension": dimensions, "pooling_mode": "lasttoken", "include_prompt": True}
    sentence = {
        "model_type": "SentenceTransformer",
        "prompts": stock_prompts(prompts),
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    _write(folder / MODULES, listed)
    _write(folder / "sentence_bert_config.json", transformer)
    _write(folder / "config_sentence_transformers.json", sentence)
    (folder / "1_Pooling").mkdir()
    _write(folder / "1_Pooling" / "config.json", pooling)
    (folder / "chat_template.jinja").write_text(chat_template(prompts))


def stock_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """Returns the prompts by the names that stock code knows: `query`, `document`, and `TASK/query` for tasks."""
    sides = ("query", "document")
    names = [*sides, *(f"{task}/{side}" for task in tasks_of(prompts) for side in sides)]
    return {name: NAMED + name for name in names}


def chat_template(prompts: Mapping[str, str]) -> str:
    """Returns the Jinja template that renders an input, with these prompts inside."""
    filled = _TEMPLATE.replace("NAMED_LENGTH", str(len(NAMED))).replace("NAMED", NAMED)
    # Jinja reads a string in JSON's spelling the same way as long as no character beyond ASCII is escaped.
    return filled.replace("PLACEHOLDER", IMAGE_PLACEHOLDER).replace(
        "PROMPTS", json.dumps(dict(prompts), ensure_ascii=False)
    )


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
