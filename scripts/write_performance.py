"""Fills the tables and plots of docs/performance.md from what the benchmarks kept.

python -m scripts.write_performance
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.outcome import HEAD, REFERENCE, rows_of
from benchmarks.outcome import kept as outcomes

from cocoa.report.charts import Point, line_chart, standalone

ROOT = Path(__file__).parents[1]
STEPS = ("warmup_step", "bridge_step", "cached_step")
PAGE = ROOT / "docs" / "performance.md"


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


def step_table(name: str) -> str:
    """Returns the table of a step beside the plain one, and of each waste alone."""
    found = kept(name)
    rows, wastes = [], []
    for backbone, one in found["backbones"].items():
        low, high = one["ratio"]["spread"]
        share = one["ceiling_share"]
        rows.append(
            [
                f"{backbone}, {one['batch_size']} pairs",
                f"{one['ratio']['median']:.2f} x ({low:.2f} to {high:.2f})",
                f"{one['ratio']['cpu']:.2f} x",
                f"{one['memory_ratio']:.2f} x",
                f"{one['flops']['plain step'] / one['flops']['cocoa']:.2f} x",
                f"{share['cocoa']:.0%}, plain {share['plain step']:.0%}",
                f"{one['pad_rate']:.0%}, plain {one['lengths']['pad_rate_of_whole_batches']:.0%}",
            ]
        )
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


def growth_table() -> str:
    """Returns the cost of a bridge row by its length."""
    found = kept("growth")
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


def small_tables() -> str:
    """Returns the cost of embedding by rows and by picture."""
    found = kept("growth")
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


def timed_table(names: tuple[str, ...], unit: str, of: str) -> str:
    """Returns the seconds of each way of runs of one benchmark, and how much longer than the first that is."""
    parts = []
    for found in map(kept, names):
        ways = {name: median(seconds) for name, seconds in found["seconds"].items()}
        own = next(iter(ways.values()))
        rows = [[name, f"{1e3 * seconds:,.0f} ms", f"{seconds / own:.2f} x"] for name, seconds in ways.items()]
        said = f"{found[of]:,} {unit}, a ceiling share of {found['ceiling_share']:.0%} ({found['ceiling']}). "
        parts += [table(["way", "median", "beside the first"], rows), said + circumstances(found)]
    return "\n\n".join(parts)


def index_table() -> str:
    """Returns build, size, recall and latency of every engine of the index benchmark."""
    found = kept("index")
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


def serve_table() -> str:
    """Returns answers and latencies of the server beside the simplest one."""
    found = kept("serve")
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


def write_plot(
    name: str, series: dict[str, list[Point]], *, title: str, y_label: str, x_label: str = "tokens of the row"
) -> None:
    """Writes a chart as a picture of its own into docs/."""
    chart = line_chart(series, title=title, x_label=x_label, y_label=y_label, noisy=False)
    (ROOT / "docs" / f"{name}.svg").write_text(standalone(chart))


def write_plots() -> None:
    """Writes the plots of growth by length."""
    entries = kept("growth")["by_length"]
    ways = ("square mask", "split", "two blocks apart")
    seconds = {way: [(float(e["tokens"]), 1e6 * e[way]["seconds"] / e["tokens"]) for e in entries] for way in ways}
    memory = {way: [(float(e["tokens"]), e[way]["peak_bytes"] / e["tokens"] / 1e3) for e in entries] for way in ways}
    write_plot("growth-time", seconds, title="A bridge row, forward and backward", y_label="µs a token")
    write_plot("growth-memory", memory, title="What the backward pass needs", y_label="kB a token")
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
        write_plot(f"growth-{name}", {"cocoa": points}, title=title, y_label=y_label, x_label=x_label)


def main() -> None:
    """Writes plots, and tables between their marks."""
    write_plots()
    steps = {"warmup": ("warmup_step",), "bridge": ("bridge_step",), "cached": ("cached_step",), "plan": ()}
    peers = {"encode": ("encode",), "contrastive": ("contrastive_step",), "index": ("index",), "serve": ("serve",)}
    # Under the same names, in a folder of their own, stand the runs on a GPU.
    on_gpu = ("warmup", "bridge", "encode", "contrastive")
    gpu = {f"gpu-{mark}": tuple(f"gpu/{name}" for name in ({**steps, **peers})[mark]) for mark in on_gpu}
    others = {"summary": (), "evaluate": ("evaluate", "evaluate-full"), "images": ("images",)}
    needed = {**steps, **peers, **others, **gpu, "growth": ("growth",), "small": ("growth",)}
    writers = {
        "summary": summary_table,
        "warmup": lambda: step_table("warmup_step"),
        "bridge": lambda: step_table("bridge_step"),
        "cached": lambda: step_table("cached_step"),
        "gpu-warmup": lambda: step_table("gpu/warmup_step"),
        "gpu-bridge": lambda: step_table("gpu/bridge_step"),
        "gpu-encode": lambda: peer_table("gpu/encode"),
        "gpu-contrastive": lambda: peer_table("gpu/contrastive_step"),
        "plan": plan_table,
        "growth": growth_table,
        "small": small_tables,
        "encode": lambda: peer_table("encode"),
        "contrastive": lambda: peer_table("contrastive_step"),
        "evaluate": lambda: timed_table(("evaluate", "evaluate-full"), "contents asked for", "samples_asked"),
        "images": lambda: timed_table(("images",), "pictures", "pictures"),
        "index": index_table,
        "serve": serve_table,
    }
    parts = {}
    for name, files in needed.items():
        if missing := [file for file in files if not (ROOT / "reference" / f"{file}.json").exists()]:
            print(f"{name}: left as it is, nothing is kept of {', '.join(missing)}")
        else:
            parts[name] = writers[name]()
    page = PAGE.read_text()
    for name, content in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        found = re.search(pattern, page, flags=re.DOTALL)
        assert found, name
        page = page[: found.start()] + found[1] + content + "\n" + found[2] + page[found.end() :]
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
