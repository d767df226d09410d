"""`cocoa quickstart`: the whole way in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cocoa.cli.console import console, summary_table


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for models, results and report.")] = Path("runs/quickstart"),
) -> None:
    """Go the whole way on generated pictures with the nano backbone: train, evaluate, search, report."""
    from cocoa.quickstart import EXAMPLE, run_quickstart
    from cocoa.report.progress import TrainingProgress

    with TrainingProgress(console) as progress:
        results = run_quickstart(out, on_step=progress.step, say=progress.say)
    variants = results["variants"]
    costs = {
        name: {"steps": f"{variant['training_steps']}", "time": f"{variant['training_seconds']:.0f} s"}
        for name, variant in variants.items()
    }
    console.print(summary_table(variants, costs))
    console.print(
        f"[bold]{results['seconds']:.0f} s.[/] Open [bold]{escape(str(out / 'report.html'))}[/] in a browser.",
        soft_wrap=True,
    )
    console.print(f'Then try: cocoa search {escape(str(out / "index"))} --text "{EXAMPLE}"', soft_wrap=True)
