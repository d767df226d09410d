"""What docs/serving.md says: its lines of curl run, its table is the settings, its dashboard shows what is counted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gallery import index_of, scenes
from running import data_url, running

from cocoa.serving.app import create_app
from cocoa.serving.engine import Engine
from cocoa.serving.forward import Forward
from cocoa.serving.keys import ApiKeys
from cocoa.serving.metrics import Metrics
from cocoa.serving.settings import QueueBounds, RequestLimits, ServeSettings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text()
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def documented(embedder, tmp_path_factory):
    settings = ServeSettings(port=0)
    engine = Engine(Forward(embedder, max_batch_tokens=2048), settings, Metrics())
    folder = tmp_path_factory.mktemp("gallery")
    index = index_of(embedder, scenes(folder, 8), folder / "index")
    with running(create_app(settings, engine, index, keys=ApiKeys.of("a-key"))) as here:
        yield here


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[2].removeprefix("$URL"))
def test_its_lines_of_curl_run(documented, picture, line):
    told = {"URL": documented.url, "MODEL": "cocoa", "KEY": "a-key", "PICTURE": data_url(picture(30, 20))}
    run = subprocess.run(["sh", "-c", line], env=os.environ | told, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    if "/v1/embeddings" in line:
        for row in json.loads(run.stdout)["data"]:
            assert abs(np.linalg.norm(row["embedding"]) - 1) < 1e-4
    if "/v1/search" in line:
        assert len(json.loads(run.stdout)["hits"]) == 5


def rows() -> list[str]:
    """The table of limits as the settings have it."""
    made = []
    for prefix, model in (("limits.", RequestLimits), ("queue.", QueueBounds), ("", ServeSettings)):
        for name, field in model.model_fields.items():
            if isinstance(field.default, int | float):
                default = f"{field.default:g}" if isinstance(field.default, float) else f"{field.default}"
                of_all = ", of all requests under way" if prefix == "queue." and "batch" not in name else ""
                words = str(field.description or "").rstrip(".")
                made.append(f"| `{prefix}{name}` | {default} | {words}{of_all} |")
    return made


def test_its_table_is_the_settings():
    assert [line for line in TEXT.splitlines() if re.match(r"\| `(limits\.|queue\.)?[a-z_]+` \| [0-9]", line)] == rows()


def test_its_dashboard_asks_for_what_is_counted(documented):
    counted = documented.service.engine.metrics.text().decode()
    asked = set(
        re.findall(r"cocoa_[a-z_]+", json.dumps(json.loads((ROOT / "deploy" / "grafana.json").read_text())["panels"]))
    )
    assert asked
    assert not [name for name in asked if f"\n{name}" not in counted and f"# TYPE {name}" not in counted
                and f"# TYPE {re.sub('_(bucket|sum|count|total)$', '', name)}" not in counted]  # fmt: skip


def test_its_unit_and_container_file_start_commands_that_exist():
    from test_docs import resolve

    unit = (ROOT / "deploy" / "cocoa.service").read_text()
    resolve(re.search(r"^ExecStart=\S*/(cocoa .*)$", unit, re.MULTILINE)[1])
    container = (ROOT / "deploy" / "Containerfile").read_text()
    words = [json.loads(part) for part in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", container, re.MULTILINE)]
    resolve(" ".join(word for part in words for word in part))
