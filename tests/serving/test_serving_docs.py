"""What docs/serving.md says: its lines of curl run, its table is the settings, its dashboard shows what is counted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from gallery import index_of, scenes
from prometheus_client.metrics import MetricWrapperBase
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


def test_its_table_has_every_refusal_of_the_server_s_own():
    told = set(re.findall(r"`(E_[A-Z_]+\*?)`", TEXT))
    families = tuple(code.removesuffix("*") for code in told if code.endswith("*"))
    sources = [path.read_text() for path in (ROOT / "src" / "cocoa" / "serving").rglob("*.py")]
    raised = {code for source in sources for code in re.findall(r"RequestError\(\s*\"(E_[A-Z_]+)", source)}
    assert len(raised) > 20
    # Who has gone hears nothing.
    assert {code for code in raised if code not in told and not code.startswith(families)} == {"E_REQUEST_GONE"}


def test_its_dashboard_asks_for_what_is_counted_by_labels_that_it_has():
    labels = {}
    for kind in vars(Metrics()).values():
        if isinstance(kind, MetricWrapperBase):
            name, own = kind._name, set(kind._labelnames)
            endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(kind._type, [""])
            labels |= {name + ending: own | ({"le"} if ending == "_bucket" else set()) for ending in endings}
    panels = json.loads((ROOT / "deploy" / "grafana.json").read_text())["panels"]
    targets = [target for panel in panels for target in panel["targets"]]
    assert len(targets) > 10
    shown = set()
    for target in targets:
        names = set(re.findall(r"cocoa_[a-z_]+", target["expr"]))
        assert names <= labels.keys(), target
        shown |= names
        for name in names:
            grouped = re.search(r"by \(([a-z, ]+)\)", target["expr"])
            selected = re.findall(r"([a-z]+)[!=]=?~?\"", target["expr"])
            asked = set(grouped[1].split(", ") if grouped else []) | set(selected)
            assert asked <= labels[name], target
            assert set(re.findall(r"{{([a-z]+)}}", target["legendFormat"])) <= asked, target
    parts = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert parts == {re.sub("_(bucket|sum|count)$", "", name) for name in labels}, "each of them has a panel"
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_its_unit_and_finds_little_exposed(tmp_path):
    unit = tmp_path / "cocoa.service"
    # Nobody has to have installed it: what is started is another program that exists.
    unit.write_text((ROOT / "deploy" / "cocoa.service").read_text().replace("/opt/cocoa/bin/cocoa", sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stderr) == (0, "")
    exposed = ["systemd-analyze", "security", "--offline=true", "--threshold=30", unit]
    assert subprocess.run(exposed, capture_output=True, timeout=60).returncode == 0


def test_its_unit_and_container_file_start_commands_that_exist():
    from test_docs import resolve

    unit = (ROOT / "deploy" / "cocoa.service").read_text()
    resolve(re.search(r"^ExecStart=\S*/(cocoa .*)$", unit, re.MULTILINE)[1])
    container = (ROOT / "deploy" / "Containerfile").read_text()
    words = [json.loads(part) for part in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", container, re.MULTILINE)]
    resolve(" ".join(word for part in words for word in part))
    for sources in re.findall(r"^COPY (.*) \S+$", container, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    extras = re.search(r"'\.\[([a-z,]+)\]'", container)[1].split(",")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= known.keys()
