"""The words that a query or a document is wrapped in, so that a model is asked as it was trained (MMEB's own)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from cocoa.errors import UsageError
from cocoa.sample import IMAGE_PLACEHOLDER, Sample

Side = Literal["query", "document"]

PROMPTS: dict[str, str] = {
    "query/text": "Find me an everyday image that matches the given caption: {text}\n",
    "query/image": f"{IMAGE_PLACEHOLDER}\nFind a day-to-day image that looks similar to the provided image.\n",
    "query/both": f"{IMAGE_PLACEHOLDER}\nGiven an image, find a similar everyday image with the described changes: "
    "{text}\n",
    "document/text": "{text}",
    "document/image": f"{IMAGE_PLACEHOLDER}\nRepresent the given image.\n",
    "document/both": f"{IMAGE_PLACEHOLDER}\nRepresent the given image with related text information: {{text}}\n",
    "classification/query/image": f"{IMAGE_PLACEHOLDER}\nRepresent the given image for classification\n",
    "classification/query/both": f"{IMAGE_PLACEHOLDER}\nRepresent the given image with the following caption for "
    "classification: {text}\n",
    "vqa/query/both": f"{IMAGE_PLACEHOLDER}\nRepresent the given image with the following question: {{text}}\n",
    "grounding/query/both": f"{IMAGE_PLACEHOLDER}\nSelect the portion of the image that follows the language "
    'expressions. "{text}"\n',
    "grounding/document/image": f"{IMAGE_PLACEHOLDER}\nRepresent the given cropped image of the object\n",
}
"""By side and kind of input (`query/both`), or by task, side and kind where a task has words of its own."""


_KEY = re.compile(r"([a-z0-9][a-z0-9_-]*/)?(query|document)/(text|image|both)")
_PLACEHOLDERS = re.compile(r"<\|image_\d+\|>")


def prompted(sample: Sample, side: Side, task: str | None = None, prompts: Mapping[str, str] | None = None) -> Sample:
    """Returns the sample in the words of its side; what its text says is never read as part of the prompt.

    `task` chooses the words of a task, where it has any for this kind of input. Raises `E_USAGE_TASK` for an unknown
    one.
    """
    prompts = PROMPTS if prompts is None else prompts
    if task is not None and task not in tasks_of(prompts):
        raise UsageError("E_USAGE_TASK", f"no prompts for task {task!r}; known: {', '.join(tasks_of(prompts))}")
    kind = "both" if sample.text and sample.images else "image" if sample.images else "text"
    plain = f"{side}/{kind}"
    return worded(sample, prompts.get(f"{task}/{plain}", prompts[plain]))


def worded(sample: Sample, prompt: str) -> Sample:
    """Returns the sample with its text at `{text}` in the prompt, or behind a prompt that does not say where.

    All its pictures stand where the prompt says `<|image_1|>`, otherwise in front.
    """
    if "{text}" not in prompt:
        prompt += "{text}"
    pictures = "".join(f"<|image_{number}|>" for number in range(1, len(sample.images) + 1))
    before, here, after = prompt.partition(IMAGE_PLACEHOLDER)
    prompt = before + (pictures if here else "") + after
    return replace(sample, text=prompt.replace("{text}", sample.text))


def check_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """Returns prompts that somebody wrote. Raises `ValueError` for a key or words that no input could be put into."""
    for key, words in prompts.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not query/text, document/both, TASK/query/image or the like")
        for hole in ("{text}", IMAGE_PLACEHOLDER):
            if words.count(hole) > 1:
                raise ValueError(f"{key}: {hole} stands more than once")
        if set(_PLACEHOLDERS.findall(words)) - {IMAGE_PLACEHOLDER}:
            raise ValueError(f"{key}: all pictures stand at {IMAGE_PLACEHOLDER}, and no other name is read")
        if key.endswith("/text") and IMAGE_PLACEHOLDER in words:
            raise ValueError(f"{key}: a text has no picture to stand at {IMAGE_PLACEHOLDER}")
        if key.endswith("/image") and "{text}" in words:
            raise ValueError(f"{key}: a picture has no text to stand at {{text}}")
    return dict(prompts)


def tasks_of(prompts: Mapping[str, str]) -> list[str]:
    """Returns the tasks that have words of their own."""
    return sorted({key.split("/")[0] for key in prompts if key.count("/") == 2})
