"""Pictures to patches beside the stock way: `python -m benchmarks.images [--json FILE]`.

The stock way is plain PIL (open, convert to RGB) and `transformers`' own `Qwen2VLImageProcessorPil`, picture by
picture; neither it nor ours needs torchvision. Same files (webp as they lie in a set's images.zip, held in memory),
same pixel limits, equal patches checked first, runs alternate. Ours are normalised too, as the peer's are, though a run
does that where it computes; reading alone, as patches travel, is timed beside it. The ceiling is decoding and resizing
alone, without which no patch is made.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from benchmarks.measuring import Times, circumstances, median, ratio, timed
from benchmarks.outcome import Case, Targets, outcome
from cocoa.archives import member_names
from cocoa.backbones.patches import PatchGrid
from cocoa.images import open_rgb

TARGET = 1.0
OURS, PEER = "cocoa", "PIL and Qwen2VLImageProcessorPil"
READ, BARE = "cocoa, bytes as they travel", "decoding and resizing alone"
OPEN_SETS = Path(__file__).resolve().parents[2] / "shared" / "data"
CLOSE = 1e-5


def read_files(archives: Sequence[Path], count: int) -> list[bytes]:
    """Returns the bytes of pictures, as many from each archive."""
    files = []
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            files += [archive.read(name) for name in islice(sorted(member_names(path)), count // len(archives))]
    return files


def compare(files: Sequence[bytes], grid: PatchGrid, repeats: int) -> dict[str, Any]:
    """Returns the times of all ways and their ratio to ours, after checking that patches are equal."""
    size = {"shortest_edge": grid.min_pixels, "longest_edge": grid.max_pixels}
    stock = Qwen2VLImageProcessorPil(size=size, patch_size=grid.patch_size, merge_size=grid.merge_size)

    def read(data: bytes) -> NDArray[np.uint8]:
        return grid.cut(open_rgb(data))[0]

    def ours(data: bytes) -> NDArray[np.float32]:
        return grid.normalised(torch.from_numpy(read(data))).numpy()

    def theirs(data: bytes) -> NDArray[np.float32]:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return np.asarray(stock(images=picture, return_tensors="np")["pixel_values"], np.float32)

    def bare(data: bytes) -> Image.Image:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        return picture.resize(grid.resized(*picture.size), Image.Resampling.BICUBIC)

    # Where a picture lets the white behind it through, the plain conversion shows black: not the same picture.
    shown = [data for data in files if not Image.open(io.BytesIO(data)).has_transparency_data]
    worst = max(float(np.abs(ours(data) - theirs(data)).max()) for data in shown)
    if worst > CLOSE:
        sys.exit(f"patches differ by {worst:.2g}; no time is given")
    ways: dict[str, Callable[[bytes], Any]] = {OURS: ours, PEER: theirs, READ: read, BARE: bare}
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            with timed(times[name]):
                for data in shown:
                    way(data)
    return {
        "beside_peer": ratio(times[PEER], times[OURS]),
        "seconds": {name: [one.wall for one in some] for name, some in times.items()},
        "cpu_seconds": {name: [one.cpu for one in some] for name, some in times.items()},
        "share": median(times[BARE]) / median(times[OURS]),
        "pictures": len(shown),
        "left_out_transparent": len(files) - len(shown),
        "largest_difference": worst,
    }


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", type=Path, default=OPEN_SETS, help="folder of sets, each with an images.zip")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--max-pixels", type=int, default=448 * 448)
    parser.add_argument("--min-pixels", type=int, default=56 * 56)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    archives = sorted(options.sets.glob("*/images.zip"))
    if not archives:
        parser.error(f"no images.zip in any folder of {options.sets}")
    grid = PatchGrid(min_pixels=options.min_pixels, max_pixels=options.max_pixels)
    result = compare(read_files(archives, options.pictures), grid, options.repeats)
    beside = result["beside_peer"]
    case = Case.of(f"{result['pictures']} pictures", beside, result.pop("share"))
    result = outcome("images", PEER, f"rate of {BARE}", [case], Targets(TARGET)) | result
    result |= {"data": [path.parent.name for path in archives], **circumstances(1)}
    for name in result["seconds"]:
        rate = result["pictures"] / sorted(result["seconds"][name])[options.repeats // 2]
        print(f"{name:36}{rate:8.0f} pictures/s")
    low, high = beside["spread"]
    print(f"{beside['median']:.2f} x as fast ({low:.2f} to {high:.2f}), of CPU {beside['cpu']:.2f}")
    print(f"{result['ceiling_share']:.0%} of the rate of {BARE}; patches differ by {result['largest_difference']:.1g}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
