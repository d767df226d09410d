"""A warm-up step beside the same step as peers run it: `python -m benchmarks.warmup_step [--json FILE]`.

What is compared, and how, stands in `benchmarks/steps.py` and `benchmarks/plain_reconstruction.py`.
"""

from __future__ import annotations

from benchmarks.plain_reconstruction import RECONSTRUCTION
from benchmarks.steps import run

STAGE = "layout: bidirectional, objectives: [{kind: masked_text, rate: 0.2}, {kind: masked_patch}]"

if __name__ == "__main__":
    run("warmup_step", STAGE, RECONSTRUCTION, __doc__ or "", batch_size=128)
