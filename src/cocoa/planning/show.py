"""A plan as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cocoa.planning.plan import Plan


def show(plan: Plan) -> Group:
    """Returns what `cocoa plan` prints: work, memory, and what to change."""
    return Group(*_parts(plan))


def _parts(plan: Plan) -> Iterator[RenderableType]:
    ranks = "" if plan.ranks == 1 else f", {plan.ranks} ranks"
    yield Text.from_markup(f"[bold]{escape(plan.recipe)}[/] on {escape(plan.device.title)}{ranks}")
    work = _table("stage", "pairs", "steps", "tokens a step", "padding", "passes", "GFLOP", "s a step", "time")
    for stage in plan.stages:
        work.add_row(
            escape(stage.name),
            f"{stage.pairs:,}",
            f"{stage.steps:,}",
            f"{stage.tokens:,}",
            f"{stage.pad_rate:.1%}",
            str(stage.passes),
            f"{stage.flops / 1e9:,.0f}",
            f"{stage.step_seconds:.3g}",
            _time(stage.hours),
        )
    work.add_row("all", *[""] * 7, _time(plan.hours))
    yield work
    yield Text("tokens, passes, GFLOP and memory are of one rank")
    kinds = ("weights", "gradients", "optimiser", "activations", "gaps", "data", "base", "total")
    memory = _table("GB", *kinds, "fits")
    for stage in plan.stages:
        sizes = (f"{getattr(stage.memory, kind) / 1e9:.2f}" for kind in kinds)
        memory.add_row(escape(stage.name), *sizes, "yes" if stage.fits else "[bold red]no[/]")
    yield memory
    yield Text(f"of {plan.device.memory_bytes / 1e9:.0f} GB; memory is counted on tensors without content")
    for basis in dict.fromkeys(stage.speed_basis for stage in plan.stages):
        yield Text(f"speed: {basis}")
    best = "none fits" if plan.chunk_tokens is None else f"{plan.chunk_tokens:,}"
    yield Text(f"machine.chunk_tokens: {plan.own_chunk_tokens:,} in the recipe; largest that fits: {best}")
    for warning in plan.warnings:
        yield Text.from_markup(f"[bold yellow]warning:[/] {escape(warning)}")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
