"""Fills in, wherever a page has their mark, the tables and figures of what the benchmarks kept; and draws the plots.

python -m scripts.write_performance

A mark is `<!-- name --> … <!-- end -->`, around a table or within a sentence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.outcome import HEAD, REFERENCE, rows_of
from benchmarks.outcome import kept as outcomes

from cocoa.report.charts import Point, line_chart, standalone

ROOT = Path(__file__).parents[1]
STEPS = ("warmup_step", "bridge_step", "cached_step")
PAGES = [ROOT / "README.md", ROOT / "docs" / "performance.md", ROOT / "docs" / "serving.md"]


def kept(name: str) -> dict[str, Any]:
    """Returns the numbers of a benchmark."""
    content: dict[str, Any] = json.loads((ROOT / "reference" / f"{name}.json").read_text())
    return content


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def circumstances(found: dict[str, Any]) -> str:
    """Returns the line under a table that says where its numbers are from."""
    said = f"`{found['command']}`, {found['date']}, {found['hardware']}, load {found['load_average']}."
    return said + (f" Note: {found['note']}." if "note" in found else "")


def summary_table() -> str:
    """Returns all benchmarks that are kept, those of a GPU last."""
    rows = [row for folder in (REFERENCE, REFERENCE / "gpu") for found in outcomes(folder) for row in rows_of(found)]
    return table(HEAD, rows)


def beside_plain(step: dict[str, Any], way: dict[str, Any], name: str) -> list[str]:
    """Returns the cells of one way of a step beside the plain one: speed, memory, operations, rate."""
    low, high = way["ratio"]["spread"]
    share = step["ceiling_share"]
    return [
        f"{way['ratio']['median']:.2f} x ({low:.2f} to {high:.2f})",
        f"{way['ratio']['cpu']:.2f} x",
        f"{way['memory_ratio']:.2f} x",
        f"{step['flops']['plain step'] / step['flops'][name]:.2f} x",
        f"{share[name]:.0%}, plain {share['plain step']:.0%}",
    ]


def step_table(name: str) -> str:
    """Returns the table of a step beside the plain one, and of each waste alone."""
    found = kept(name)
    rows, wastes = [], []
    for backbone, one in found["backbones"].items():
        pads = f"{one['pad_rate']:.0%}, plain {one['lengths']['pad_rate_of_whole_batches']:.0%}"
        rows.append([f"{backbone}, {one['batch_size']} pairs", *beside_plain(one, one, "cocoa"), pads])
        if little := one.get("little"):
            name = f"the same, passes of {little['chunk_tokens']} tokens"
            rows.append([name, *beside_plain(one, little, "cocoa in little memory"), "–"])
        # Of the processor: the clock of a busy machine says little of a tenth.
        wastes += [
            [backbone, cost["what"], f"{cost['time']['cpu']:.2f} x", f"{cost['memory']:.2f} x"]
            for cost in one["wastes"].values()
        ]
    head = ["backbone", "as fast", "of CPU seconds", "peak memory", "fewer operations", "of the matrix rate", "padding"]
    return "\n\n".join(
        [
            table(head, rows),
            table(["backbone", "this waste alone", "CPU seconds", "memory"], wastes),
            circumstances(found),
        ]
    )


def plan_table() -> str:
    """Returns what `cocoa plan` says of the benchmarks' steps, over what was counted."""
    rows = []
    for name in STEPS:
        if not (ROOT / "reference" / f"{name}.json").exists():
            continue
        for backbone, one in kept(name)["backbones"].items():
            said = one["planned"]
            rows.append([name, backbone, f"{said['flops_ratio']:.3f}", f"{said['peak_ratio']:.3f}"])
    return table(["step", "backbone", "operations, planned over counted", "peak memory, planned over counted"], rows)


def growth_table(name: str) -> str:
    """Returns the cost of a bridge row by its length."""
    found = kept(name)
    ways = ("square mask", "split", "two blocks apart")
    rows = [
        [
            f"{entry['tokens']:,}",
            *(f"{1e3 * entry[way]['seconds']:,.0f} ms" for way in ways),
            *(f"{entry[way]['peak_bytes'] / 1e6:,.0f} MB" for way in ways),
            f"{entry['split']['looks'] / entry['square mask']['looks']:.2f}",
        ]
        for entry in found["by_length"]
    ]
    head = ["tokens", *ways, *(f"{way}, memory" for way in ways), "pairs, split over square"]
    return "\n\n".join([table(head, rows), circumstances(found)])


def small_tables(name: str) -> str:
    """Returns the cost of embedding by rows and by picture."""
    found = kept(name)
    rows = [
        [str(one["rows"]), f"{1e3 * one['seconds']:.1f} ms", f"{1e3 * one['seconds'] / one['rows']:.2f} ms"]
        for one in found["by_rows"]
    ]
    pictures = [
        [
            f"{one['side']} x {one['side']}",
            f"{one['tokens']:,}",
            f"{1e3 * one['seconds']:.1f} ms",
            f"{1e3 * one['seconds'] / one['tokens']:.2f} ms",
            f"{one['peak_bytes'] / 1e6:,.0f} MB",
        ]
        for one in found["by_picture"]
    ]
    corpus = [
        [f"{one['rows']:,}", f"{1e3 * one['seconds']:.2f} ms", f"{1e9 * one['seconds'] / one['rows']:,.0f} ns"]
        for one in found["by_corpus"]
    ]
    ranked = [
        [
            f"{one['candidates']:,}",
            f"{1e3 * one['seconds']:.1f} ms",
            f"{1e9 * one['seconds'] / one['candidates'] / 200:,.0f} ns",
        ]
        for one in found["by_candidates"]
    ]
    return "\n\n".join(
        [
            table(["texts of 64 tokens", "all", "each"], rows),
            table(["picture", "visual tokens", "time", "a token", "memory"], pictures),
            table(["rows of the corpus, every one looked at", "one search", "a row"], corpus),
            table(["candidates of a question", "200 questions ranked", "a candidate"], ranked),
        ]
    )


def peer_table(name: str) -> str:
    """Returns the table of a benchmark beside sentence-transformers."""
    found = kept(name)
    rows = []
    for backbone, one in found["backbones"].items():
        low, high = one["ratio"]["spread"]
        fewer = one["gflops"]["sentence-transformers"] / one["gflops"]["cocoa"]
        rows.append(
            [
                backbone,
                f"{one['ratio']['median']:.2f} x ({low:.2f} to {high:.2f})",
                f"{one['ratio']['cpu']:.2f} x",
                f"{one['memory_ratio']['added']:.2f} x",
                f"{fewer:.2f} x",
                f"{one['ceiling_share']['cocoa']:.0%}, peer {one['ceiling_share']['sentence-transformers']:.0%}",
            ]
        )
    head = ["backbone", "as fast", "of CPU seconds", "memory added", "fewer operations", "of the matrix rate"]
    return "\n\n".join([table(head, rows), circumstances(found)])


def timed_table(unit: str, of: str, *names: str) -> str:
    """Returns the seconds of each way of runs of one benchmark, and how much longer than the first that is."""
    parts = []
    for found in map(kept, names):
        ways = {name: median(seconds) for name, seconds in found["seconds"].items()}
        own = next(iter(ways.values()))
        rows = [[name, f"{1e3 * seconds:,.0f} ms", f"{seconds / own:.2f} x"] for name, seconds in ways.items()]
        said = f"{found[of]:,} {unit}, a ceiling share of {found['ceiling_share']:.0%} ({found['ceiling']}). "
        parts += [table(["way", "median", "beside the first"], rows), said + circumstances(found)]
    return "\n\n".join(parts)


def index_table(name: str) -> str:
    """Returns build, size, recall and latency of every engine of the index benchmark."""
    found = kept(name)
    rows = [
        [
            name,
            f"{one['build_seconds']:,.0f} s" if "build_seconds" in one else "–",
            f"{one['megabytes']:,.0f} MB" if "megabytes" in one else "–",
            f"{one['recall_at_10']:.3f}",
            f"{one['p50_ms']:,.2f} ms",
            f"{one['p99_ms']:,.2f} ms",
        ]
        for name, one in found["engines"].items()
    ]
    said = f"{found['rows']:,} rows of {found['dimensions']} dimensions, queries one by one. `{found['command']}`, "
    said += f"{found['date']}, {found['machine']}, load {found['load_at_end']}."
    said += f" Note: {found['note']}." if "note" in found else ""
    return "\n\n".join([table(["engine", "built in", "size", "recall@10", "p50", "p99"], rows), said])


def serve_table(name: str) -> str:
    """Returns answers and latencies of the server beside the simplest one."""
    found = kept(name)
    rows = [
        [
            name,
            f"{one['answers_per_second']:,.0f}",
            *(f"{1e3 * one[p]:,.0f} ms" for p in ("p50_seconds", "p99_seconds")),
        ]
        for name, one in found["medians"].items()
    ]
    low, high = found["ratio_of_rounds"][0], found["ratio_of_rounds"][-1]
    said = f"{found['clients']} clients: {found['ratio']:.2f} x ({low:.2f} to {high:.2f}). " + circumstances(found)
    return "\n\n".join([table(["server", "answers a second", "p50", "p99"], rows), said])


def times(name: str) -> str:
    """Returns how many times as fast as its peer a benchmark is in its worst case, for a sentence."""
    return f"{kept(name)['ratio']:.1f}"


def serve_sentence(name: str) -> str:
    """Returns what the server's answers are beside those of its peer and of its ceiling."""
    found = kept(name)
    low, high = found["ratio_of_rounds"][0], found["ratio_of_rounds"][-1]
    return (
        f"That is {found['ratio']:.1f} times the answers (turns from {low:.1f} to {high:.1f}), "
        f"{found['ratio_of_processor_seconds']:.1f} times for a second of the processor, and "
        f"{found['ceiling_share']:.0%} of the ceiling."
    )


def plot(series: dict[str, list[Point]], *, title: str, y_label: str, x_label: str = "tokens of the row") -> str:
    """Returns a chart as a picture of its own."""
    return standalone(line_chart(series, title=title, x_label=x_label, y_label=y_label, noisy=False))


def plots() -> dict[str, str]:
    """Returns the plots of how cost grows, by their name in docs/."""
    entries = kept("growth")["by_length"]
    ways = ("square mask", "split", "two blocks apart")
    seconds = {way: [(float(e["tokens"]), 1e6 * e[way]["seconds"] / e["tokens"]) for e in entries] for way in ways}
    memory = {way: [(float(e["tokens"]), e[way]["peak_bytes"] / e["tokens"] / 1e3) for e in entries] for way in ways}
    drawn = {
        "growth-time": plot(seconds, title="A bridge row, forward and backward", y_label="µs a token"),
        "growth-memory": plot(memory, title="What the backward pass needs", y_label="kB a token"),
    }
    # (name, part, what grows, what it is divided by, title, what stands at the axes)
    others = (
        ("rows", "by_rows", "rows", 1e3, "Embedding a text of 64 tokens", "ms a text", "log2 of texts at once"),
        (
            "picture",
            "by_picture",
            "tokens",
            1e3,
            "Embedding one picture",
            "ms a visual token",
            "log2 of its visual tokens",
        ),
        ("corpus", "by_corpus", "rows", 1e9, "A search that looks at every row", "ns a row", "log2 of rows"),
        (
            "candidates",
            "by_candidates",
            "candidates",
            1e6,
            "Ranking 200 questions",
            "µs a candidate",
            "log2 of candidates",
        ),
    )
    for name, part, grows, unit, title, y_label, x_label in others:
        points = [(math.log2(one[grows]), unit * one["seconds"] / one[grows]) for one in kept("growth")[part]]
        drawn[f"growth-{name}"] = plot({"cocoa": points}, title=title, y_label=y_label, x_label=x_label)
    return drawn


MARKS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "summary": (summary_table, ()),
    "warmup": (step_table, ("warmup_step",)),
    "bridge": (step_table, ("bridge_step",)),
    "cached": (step_table, ("cached_step",)),
    "plan": (plan_table, ()),
    "growth": (growth_table, ("growth",)),
    "small": (small_tables, ("growth",)),
    "encode": (peer_table, ("encode",)),
    "contrastive": (peer_table, ("contrastive_step",)),
    "evaluate": (partial(timed_table, "contents asked for", "samples_asked"), ("evaluate", "evaluate-full")),
    "evaluate-times": (times, ("evaluate",)),
    "evaluate-full-times": (times, ("evaluate-full",)),
    "images": (partial(timed_table, "pictures", "pictures"), ("images",)),
    "index": (index_table, ("index",)),
    "serve": (serve_table, ("serve",)),
    "serve-times": (times, ("serve",)),
    "serve-sentence": (serve_sentence, ("serve",)),
    # Under the same names, in a folder of their own, stand the runs on a GPU.
    "gpu-warmup": (step_table, ("gpu/warmup_step",)),
    "gpu-bridge": (step_table, ("gpu/bridge_step",)),
    "gpu-encode": (peer_table, ("gpu/encode",)),
    "gpu-contrastive": (peer_table, ("gpu/contrastive_step",)),
}
"""What a mark stands for: what makes its text, of which files in reference/."""


def filled(page: str) -> str:
    """Returns a page with what is kept between its marks; where a file is not kept, the page stays as it is."""

    def content(mark: re.Match[str]) -> str:
        write, files = MARKS[mark["name"]]
        if not all((ROOT / "reference" / f"{file}.json").exists() for file in files):
            return mark[0]
        return f"<!-- {mark['name']} -->{mark['line']}{write(*files)}{mark['line']}<!-- end -->"

    return re.sub(r"<!-- (?P<name>\S+) -->(?P<line>\n?)(?:(?!<!-- ).)*<!-- end -->", content, page, flags=re.DOTALL)


def main() -> None:
    """Writes plots, and what stands between marks."""
    for name, drawn in plots().items():
        (ROOT / "docs" / f"{name}.svg").write_text(drawn)
    for path in PAGES:
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
