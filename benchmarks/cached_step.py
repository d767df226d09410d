"""A contrastive step beside VLM2Vec's way of it: `python -m benchmarks.cached_step [--json FILE]`.

What is compared, and how, stands in `benchmarks/steps.py` and `benchmarks/plain_contrast.py`. The vision tower is
frozen, as VLM2Vec's adapters leave that of Qwen2-VL. Chunks of eight rows hold little; ours are taken twice, as they
come and as small.
"""

from __future__ import annotations

from benchmarks.plain_contrast import CONTRAST
from benchmarks.steps import run

STAGE = "layout: bidirectional, objectives: [{kind: contrastive}], freeze_vision: true"

if __name__ == "__main__":
    run("cached_step", STAGE, CONTRAST, __doc__ or "", batch_size=256, little=384)
