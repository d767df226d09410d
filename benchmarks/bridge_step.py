"""A bridge step beside the same step as peers run it: `python -m benchmarks.bridge_step [--json FILE]`.

What is compared, and how, stands in `benchmarks/steps.py` and `benchmarks/plain_reconstruction.py`.
"""

from __future__ import annotations

from benchmarks.plain_reconstruction import RECONSTRUCTION
from benchmarks.steps import run

STAGE = "layout: eos_bridge, objectives: [{kind: masked_text, rate: 0.7, roles: [target]}]"

if __name__ == "__main__":
    run("bridge_step", STAGE, RECONSTRUCTION, __doc__ or "", batch_size=64)
