"""Prints what is kept of every benchmark: `python -m benchmarks [FOLDER]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.outcome import REFERENCE, kept, rows_of


def main() -> None:
    """Prints the cases of a folder of kept benchmarks, two lines each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(":")[0] + ".")
    parser.add_argument("folder", type=Path, nargs="?", default=REFERENCE, help="default: %(default)s")
    for found in kept(parser.parse_args().folder):
        for row in rows_of(found):
            name, case, peer, ratio, target, memory, memory_target, share, share_target = row
            print(f"{name}, {case}: {ratio} as fast as {peer}{said(target)}")
            held = "" if memory == "–" else f"{memory} the memory{said(memory_target)}; "
            print(f"    {held}{share}{said(share_target)}")


def said(target: str) -> str:
    """Returns what stands behind a figure about its target."""
    return "" if target == "–" else f" (target {target.replace('**', '')})"


if __name__ == "__main__":
    main()
