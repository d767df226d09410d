"""Training sets to mine, the model that mines them, and processes that can be killed while they do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cocoa.data.scene_pairs import ScenePairs
from cocoa.model import EmbeddingModel, reading
from forking import Processes

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model embeds its golden inputs, which tests that count or spoil what is embedded do not mean."""
    monkeypatch.setattr(reading, "run_self_test", lambda *given: None)


@pytest.fixture
def model(tiny: Callable[..., Any], tmp_path: Path) -> Path:
    """The folder of a random model."""
    EmbeddingModel(tiny(), max_tokens=64).save(tmp_path / "model")
    return tmp_path / "model"


def texts_to_rows(pairs: Sequence[tuple[str, str]]) -> list[Row]:
    """Returns rows of texts alone."""
    return [{"qry": query, "qry_image_path": "", "pos_text": target, "pos_image_path": ""} for query, target in pairs]


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Writes a table, in the format that its name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def write_table() -> Callable[[Path, Sequence[Row]], Path]:
    """Writes a table: `write_table(path, rows)`."""
    return write_rows


@pytest.fixture
def text_rows() -> Callable[[Sequence[tuple[str, str]]], list[Row]]:
    """Makes rows of (query, target) texts: `text_rows(pairs)`."""
    return texts_to_rows


def write_scenes(folder: Path, num: int, *, tables: Sequence[str] = ("i2t", "t2i"), seed: int = 0) -> Path:
    """Writes a set of generated scenes: pictures in `images/`, a table from picture to text, one the other way."""
    pairs = ScenePairs(seed=seed, num_pairs=num, pixels=56)
    (folder / "images").mkdir(parents=True)
    rows: dict[str, list[Row]] = {name: [] for name in tables}
    for number, pair in enumerate(pairs[place] for place in range(num)):
        name = f"{number:03}.png"
        pair.query.images[0].save(folder / "images" / name)  # type: ignore[union-attr]
        shown = {"text": "<|image_1|>\nRepresent the given image.\n", "image": name}
        said = {"text": pair.target.text, "image": ""}
        for table in tables:
            query, target = (shown, said) if table == "i2t" else (said, shown)
            rows[table].append(
                {
                    "qry": query["text"],
                    "qry_image_path": query["image"],
                    "pos_text": target["text"],
                    "pos_image_path": target["image"],
                }
            )
    for table in tables:
        write_rows(folder / "train" / f"{table}.parquet", rows[table])
    return folder


@pytest.fixture
def scenes() -> Callable[..., Path]:
    """Writes a set of generated scenes: `scenes(folder, num, tables=("i2t", "t2i"), seed=0)`."""
    return write_scenes


@pytest.fixture
def contents() -> Callable[[Path], dict[str, str]]:
    """Returns the digest of every file that a job leaves, by name: `contents(out)`."""

    def digest(out: Path) -> dict[str, str]:
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "lock")
        return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return digest


ZYGOTE = """
import hashlib, json, os, sys, traceback
from pathlib import Path
import pyarrow.compute, torch
torch.set_num_threads(1)
from cocoa.mining import Window, mine
from cocoa.model import EmbeddingModel
import transformers.models.qwen2_vl.modeling_qwen2_vl
plain, load, models = EmbeddingModel.embed_all, EmbeddingModel.load, {}
for line in sys.stdin:
    job = json.loads(line)
    models[job["model"]] = models.get(job["model"]) or load(Path(job["model"]))
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(job["env"])
            log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

            def logged(model, samples):
                ids = hashlib.sha256(b"".join(sample.ids.tobytes() for sample in samples)).hexdigest()
                vectors = plain(model, samples)
                os.write(log, f"{ids}\\n".encode())
                return vectors

            EmbeddingModel.embed_all = logged
            EmbeddingModel.load = lambda folder: models[str(folder)]
            mine(
                Path(job["model"]), Path(job["train"]), Path(job["out"]),
                window=Window(last_rank=20), shard_size=job["size"], copy_images=job["copy"], workers=1,
            )
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    """Runs jobs that may be killed."""
    running = Processes(ZYGOTE)
    yield running
    running.close()
