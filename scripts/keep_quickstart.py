"""Keeps a quickstart's numbers: reference/quickstart.json, and the table in the README made from it.

python scripts/keep_quickstart.py runs/quickstart
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
COLUMNS = ("classification", "vqa", "retrieval", "grounding", "overall")


def table(results: dict[str, Any]) -> str:
    """Returns the README's table: hit@1 in % of each variant, and what it cost."""
    lines = [
        "| hit@1 in % | " + " | ".join(COLUMNS) + " | training |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name, variant in results["variants"].items():
        rates = " | ".join(f"{100 * variant[column]:.1f}" for column in COLUMNS)
        cost = f"{variant['training_steps']} steps, {variant['training_seconds']:.0f} s"
        lines.append(f"| `{name}` | {rates} | {cost} |")
    true, shuffled = results["bridge"]["after"]
    before = results["bridge"]["before"]
    lines += [
        "",
        f"One seed, {results['kept']['hardware']}, {results['seconds']:.0f} s in all. Hidden words read through the "
        f"bridge token alone cost {true:.2f} nats, through another picture's {shuffled:.2f} (before the bridge stage: "
        f"{before[0]:.2f} and {before[1]:.2f}). The numbers are those of `reference/quickstart.json`.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    results = json.loads((parser.parse_args().run / "results.json").read_text())
    results["kept"] = {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": "make quickstart",
        "hardware": f"{os.cpu_count()} {platform.machine()} cores, torch {torch.__version__}",
    }
    (ROOT / "reference").mkdir(exist_ok=True)
    (ROOT / "reference" / "quickstart.json").write_text(json.dumps(results, indent=2) + "\n")
    readme = ROOT / "README.md"
    marked = re.compile(r"(<!-- quickstart -->\n).*?(<!-- /quickstart -->)", re.DOTALL)
    readme.write_text(marked.sub(lambda found: f"{found[1]}{table(results)}\n{found[2]}", readme.read_text()))


if __name__ == "__main__":
    main()
