"""What a job made, in the columns that our readers read, with where each row comes from beside them."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cocoa.synthesis.conversations import Row
from cocoa.synthesis.plan import Plan


def to_parquet(plan: Plan, rows: list[tuple[str, Row]]) -> bytes:
    """Returns a Parquet file of (picture, row), for `ImageTextPairs` if they are captions, else for `MmebTrain`."""
    names = [name for name, _ in rows]
    texts = [row.text for _, row in rows]
    columns: dict[str, list[Any]]
    if plan.prompts.kind == "captions":
        columns = {"image_path": names, "text": texts}
    else:
        columns = {
            "qry": [plan.prompts.query.replace("{question}", row.question) for _, row in rows],
            "qry_image_path": names,
            "pos_text": texts,
            "pos_image_path": [""] * len(rows),
            "question": [row.question for _, row in rows],
        }
    constant = {
        "model": plan.model,
        "prompts": plan.prompts.name,
        "prompts_sha256": plan.prompts.sha256,
        "settings": json.dumps(plan.settings, sort_keys=True),
    }
    columns |= {
        "image_sha256": [plan.pictures[name] for name in names],
        "endpoint": [row.host for _, row in rows],
        **{name: [value] * len(rows) for name, value in constant.items()},
    }
    buffer = io.BytesIO()
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), buffer, compression="zstd", row_group_size=50_000)
    return buffer.getvalue()


def to_json_lines(rows: list[dict[str, str]]) -> str:
    """Returns one JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)
