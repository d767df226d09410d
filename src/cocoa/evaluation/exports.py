"""Results in the forms in which others take them: the leaderboard's JSON, and a row for a Markdown or LaTeX table."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cocoa.data.mmeb_v1 import TASKS
from cocoa.errors import UsageError
from cocoa.evaluation.runner import Evaluation
from cocoa.evaluation.scorer import TaskScore
from cocoa.files import write_file
from cocoa.model import EmbeddingModel
from cocoa.sample import META_TASKS

EXPORTS = ("row.md", "row.tex", "leaderboard.json")
_CUTS = (1, 5, 10)
_MEANS = (*META_TASKS, "ind", "ood", "overall")
_TITLES = {"classification": "Cls", "vqa": "VQA", "retrieval": "Ret", "grounding": "Grd"}


def write_exports(evaluation: Evaluation, model: EmbeddingModel, out: Path) -> None:
    """Writes what can be written of an evaluation: rows of a whole set, the leaderboard's file of MMEB-V1.

    What cannot be written of this one is removed where another has left it: it would pass for this one's.
    """
    made: dict[str, str | None] = dict.fromkeys(EXPORTS)
    if evaluation.complete:
        made |= {"row.md": markdown_row(evaluation), "row.tex": latex_row(evaluation)}
        if {task.name for task in evaluation.tasks} == set(TASKS):
            made["leaderboard.json"] = json.dumps(leaderboard(evaluation, **model_facts(model)), indent=4) + "\n"
    for name, content in made.items():
        if content is None:
            (out / name).unlink(missing_ok=True)
        else:
            write_file(out / name, content)


def model_facts(model: EmbeddingModel) -> dict[str, Any]:
    """Returns what the leaderboard asks about a model and the model itself can say."""
    return {
        "model_backbone": model.backbone.stock.config.model_type,
        "model_size": round(sum(weight.numel() for weight in model.parameters()) / 1e9, 3),
        "embedding_dimension": model.backbone.hidden_size,
        "max_length_tokens": model.max_tokens,
    }


def leaderboard(evaluation: Evaluation, **metadata: Any) -> dict[str, Any]:
    """Returns the JSON that the MMEB leaderboard takes: metrics by modality and task, by MMEB's own rule for ties.

    `metadata` is added to the model's, such as `model_name`, `model_backbone`, `model_size` (billions), `url`.

    Raises:
        UsageError: E_USAGE_EXPORT for anything but all 36 tasks of MMEB-V1.
    """
    scores = {task.name: score for task, score in zip(evaluation.tasks, evaluation.scores, strict=True)}
    if missing := [name for name in TASKS if name not in scores]:
        raise UsageError("E_USAGE_EXPORT", f"the leaderboard takes all of MMEB-V1; missing: {', '.join(missing)}")
    facts = {"model_name": Path(evaluation.model).name, "data_source": "Self-Reported", **metadata}
    facts["report_generated_date"] = datetime.now(UTC).isoformat()
    return {"metadata": facts, "metrics": {"image": {name: _metrics(scores[name]) for name in TASKS}}}


def _metrics(score: TaskScore) -> dict[str, float]:
    """Every figure that the leaderboard's own evaluator writes; with one right answer many are the same number."""
    ranks = score.official_ranks
    count = len(ranks)
    hit = {cut: sum(rank <= cut for rank in ranks) / count for cut in _CUTS}
    gain = {cut: sum(1 / math.log2(1 + rank) for rank in ranks if rank <= cut) / count for cut in _CUTS}
    inverse = {cut: sum(1 / rank for rank in ranks if rank <= cut) / count for cut in _CUTS}
    precision = {cut: hit[cut] / cut for cut in _CUTS}
    figures = {
        "hit": hit,
        "ndcg_linear": gain,
        "ndcg_exponential": gain,
        "precision": precision,
        "recall": hit,
        "f1": {cut: 2 * hit[cut] / (1 + cut) for cut in _CUTS},
        "map": inverse,
        "mrr": inverse,
    }
    named = {f"{name}@{cut}": rate for name, rates in figures.items() for cut, rate in rates.items()}
    return named | {"num_pred": count, "num_data": count}


def markdown_row(evaluation: Evaluation) -> str:
    """Returns a Markdown table of one row: the means in percent. Raises E_USAGE_EXPORT for a part of a set."""
    titles, rates = _row(evaluation)
    name = evaluation.model.replace("\\", "\\\\").replace("|", "\\|")
    return "\n".join(
        [
            f"| model | {' | '.join(titles)} |",
            f"|---|{'---:|' * len(titles)}",
            f"| {name} | {' | '.join(rates)} |\n",
        ]
    )


def latex_row(evaluation: Evaluation) -> str:
    """Returns a row of a LaTeX table with its titles as a comment. Raises E_USAGE_EXPORT for a part of a set."""
    titles, rates = _row(evaluation)
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    name = "".join(special.get(each, f"\\{each}" if each in "&%$#_{}" else each) for each in evaluation.model)
    return f"% {' & '.join(['model', *titles])}\n{' & '.join([name, *rates])} \\\\\n"


def _row(evaluation: Evaluation) -> tuple[Sequence[str], Sequence[str]]:
    if not evaluation.complete:
        raise UsageError("E_USAGE_EXPORT", "a part of a set has no means")
    summary = evaluation.summary
    names = [name for name in _MEANS if name in summary]
    titles = [_TITLES.get(name, name.upper() if len(name) == 3 else name) for name in names]
    return titles, [f"{100 * summary[name]:.1f}" for name in names]
