"""Every reader of files and texts that come from outside, with valid bytes for it to be mutated."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from indexing import embeddings, rows, unit
from pydantic import ValidationError

from cocoa.ablation.study import load_study
from cocoa.backbones import load_backbone
from cocoa.corpus.documents import BadDocument, Document, Reading
from cocoa.corpus.embeddings import CARD as EMBEDDINGS_CARD
from cocoa.corpus.embeddings import Embeddings
from cocoa.corpus.filters import parse_filter
from cocoa.corpus.index import Index
from cocoa.corpus.inputs import Input
from cocoa.corpus.plan import LISTING, Plan
from cocoa.corpus.sources.parquet import ParquetReader
from cocoa.corpus.where import read_where
from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_eval import read_tasks
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.tables import find_images
from cocoa.images import ImageLimits, data_url_bytes, open_rgb, picture_size
from cocoa.items import as_samples
from cocoa.model.card import CARD, Card
from cocoa.model.golden import GOLDEN, Golden
from cocoa.model.reading import refuse_what_could_run
from cocoa.recipe import load_recipe, parse_recipe
from cocoa.sample import Sample
from cocoa.serving.bodies import parse
from cocoa.serving.settings import RequestLimits
from cocoa.serving.shapes.openai import EmbeddingsBody
from cocoa.synthesis.prompts import load_prompts
from picture_files import NOISE, encode

KEPT = {"price": "float", "kind": "string", "year": "int", "name": "string", "a b": "string"}
ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "src" / "cocoa" / "assets"
SMALL = NOISE.resize((12, 10))
LIMITS = ImageLimits(max_pixels=1_000_000)
PICTURE = Sample("a cat", (SMALL,), "rows.jsonl:1")
PAIR_ROWS = [{"image_path": "a.png", "text": f"a cat, a dog and {number} owls"} for number in range(4)]
TRAIN_ROWS = [
    {
        "qry": "<|image_1|>\nWhat is it?\n", "qry_image_path": "a.png", "pos_text": f"an owl {number}",
        "pos_image_path": "", "neg_text": ["a cat", "a dog"], "neg_image_path": ["", ""],
    }
    for number in range(4)
]  # fmt: skip
TASK_ROWS = [
    {
        "qry_text": "<|image_1|>\nWhat?\n", "qry_img_path": "a.png", "tgt_text": ["an owl", f"a cat {number}"],
        "tgt_img_path": ["", ""],
    }
    for number in range(4)
]  # fmt: skip
CORPUS_ROWS = [{"id": f"r{number}", "text": "a cat", "image": "a.png", "year": number} for number in range(4)]


@dataclass(frozen=True)
class Fuzzed:
    """A reader: `read(file)` reads what lies at a path, or `read(bytes)`; `valid` are bytes that it takes.

    `is_json`: values are changed too, not only bytes. `set_up` is called once with the folder of the file `name`.
    `share` is how often it is tried, against others. `lone`: what is read is one text, so its errors need no place.
    """

    label: str
    valid: tuple[bytes, ...]
    read: Callable[[Path], object]
    name: str = "file"
    is_json: bool = False
    set_up: Callable[[Path], object] = lambda _: None
    share: float = 1.0
    lone: bool = False

    def __str__(self) -> str:
        return self.label


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]], **how: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, **how)
    return buffer.getvalue()


def with_picture_of(folder: Path) -> None:
    (folder / "a.png").write_bytes(encode(SMALL, "PNG"))


def tasks_of(folder: Path, name: str) -> None:
    (folder / "test").mkdir()
    (folder / "manifest.json").write_bytes(MANIFEST)
    (folder / name).write_bytes(lines(TASK_ROWS))
    with_picture_of(folder)


MANIFEST = json.dumps({"tasks": {"birds": {"meta_task": "vqa", "chance": 0.5, "blind": 0.5, "split": "ood"}}}).encode()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"sub/{number}.png", encode(SMALL, "PNG"))
    return buffer.getvalue()


def read_archive(path: Path) -> None:
    find = find_images(path.parent)
    for number in range(3):
        open_rgb(find(f"sub/{number}.png"), LIMITS, where="rows.jsonl:1")


def read_picture(path: Path) -> None:
    open_rgb(path, LIMITS, where="rows.jsonl:1")
    picture_size(path, LIMITS)


def read_all(pairs: Any) -> None:
    for number in range(len(pairs)):
        pair = pairs[number]
        for sample in (pair.query, pair.target, *pair.negatives):
            for image in sample.images:
                open_rgb(image, LIMITS, where=sample.where)


def read_corpus(path: Path) -> None:
    """What `cocoa embed` reads of its input, row by row; where no row is good the first one's error ends it."""

    class Embedder:
        identity: dict[str, Any] = {"fingerprint": "f"}  # noqa: RUF012
        address = "a model"

    found = Input.find(path)
    listing = path.parent / LISTING
    found.write_listing(listing)
    plan = Plan.make(Embedder(), found, listing, 3)  # type: ignore[arg-type]
    plan.write(path.parent / "plan.json")
    plan = Plan.read(path.parent / "plan.json")
    made: list[Document | BadDocument] = []
    with ParquetReader() as reader:
        sources = found.sources(listing, reader, frozenset(plan.columns))
        for shard in plan.shards:
            reading = Reading(plan.named, "", plan.columns, found.finder())
            made.extend(reading.document(raw) for raw in sources[shard.part.file].read(shard.part))
    if isinstance(made[0], BadDocument) and not any(isinstance(row, Document) for row in made):
        raise made[0].error


def with_plan(folder: Path) -> None:
    with_picture_of(folder)
    (folder / "c.jsonl").write_bytes(lines(CORPUS_ROWS))
    read_corpus(folder / "c.jsonl")


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (
            ("r0.txt", b"a cat"),
            ("r0.png", encode(SMALL, "PNG")),
            ("r1.json", b'{"text": "a dog", "year": 3}'),
            ("r1.png", encode(SMALL, "PNG")),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def with_backbone(folder: Path, name: str) -> None:
    """A backbone whose other files are links, so that a thousand tries cost no copies."""
    for path in (ASSETS / "nano").iterdir():
        if path.name != name:
            (folder / path.name).symlink_to(path)


def backbone_file(name: str, share: float, *, weights: bool = False) -> Fuzzed:
    return Fuzzed(
        f"backbone-{name}",
        ((ASSETS / "nano" / name).read_bytes(),),
        lambda path: load_backbone(str(path.parent), weights=weights).encode(PICTURE),
        name,
        is_json=name.endswith(".json"),
        set_up=lambda folder: with_backbone(folder, name),
        share=share,
    )


def with_embeddings(folder: Path) -> Embeddings:
    return embeddings(folder, rows(["a", "b", "c", "d"]))


def with_index(folder: Path) -> None:
    Index.build(with_embeddings(folder.parent / f"{folder.name}-embeddings"), folder)


def read_body(path: Path) -> None:
    """What the server makes of a body: JSON that means one thing, then a request, or a list of what is wrong."""
    body = parse(path.read_bytes(), RequestLimits())
    try:
        request = EmbeddingsBody.model_validate(body)
    except ValidationError:
        return
    request.samples()


def read_items(path: Path) -> None:
    try:
        items = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    for sample in as_samples(items):
        for image in sample.images:
            open_rgb(image, LIMITS, where=sample.where)


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


RECIPE = (ASSETS / "quickstart.yaml").read_bytes()
STUDY = ROOT / "studies" / "nano-few.yaml"
PAPER = ROOT / "recipes" / "cocoa-qwen2-vl-2b.yaml"
ITEMS = json.dumps(
    ["a cat", {"text": "a cat", "image": "data:image/png;base64," + base64.b64encode(encode(SMALL, "PNG")).decode()}]
).encode()
BODY = json.dumps(
    {
        "model": "m", "encoding_format": "float", "dimensions": 8, "input_type": "query",
        "input": ["a cat", {"text": "a dog", "image": "data:image/png;base64,AAAA"},
                  {"content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:,"}}]}],
    }
).encode()  # fmt: skip
WHERE = b"""price < 3.5 and (kind = "cat" or not year is null) and name in ('a', "b\\"") or `a b` contains "x" """
URL = b"data:image/png;base64," + base64.b64encode(encode(SMALL, "PNG"))

FUZZED = [
    Fuzzed("recipe", (RECIPE, PAPER.read_bytes()), load_recipe, "recipe.yaml"),
    Fuzzed("study", (STUDY.read_bytes(),), load_study, "study.yaml", share=0.1),
    Fuzzed("prompts", ((ASSETS / "prompts" / "questions.yaml").read_bytes(),), lambda p: load_prompts(str(p)),
           "p.yaml"),
    Fuzzed("set", (b"stages.0.steps=100", b"stages.0.data.0.seed=3"),
           lambda p: parse_recipe(RECIPE.decode(), changes=[text_of(p)]), share=0.3, lone=True),
    Fuzzed("pairs-jsonl", (lines(PAIR_ROWS),), lambda p: read_all(ImageTextPairs(p)), "t.jsonl", True, with_picture_of),
    Fuzzed("pairs-json", (json.dumps(PAIR_ROWS).encode(),), lambda p: read_all(ImageTextPairs(p)), "t.json", True,
           with_picture_of),
    Fuzzed("pairs-parquet", (parquet(PAIR_ROWS), parquet(PAIR_ROWS, compression="zstd")),
           lambda p: read_all(ImageTextPairs(p)), "t.parquet", set_up=with_picture_of),
    Fuzzed("train-jsonl", (lines(TRAIN_ROWS),), lambda p: read_all(MmebTrain(p)), "t.jsonl", True, with_picture_of),
    Fuzzed("train-parquet", (parquet(TRAIN_ROWS),), lambda p: read_all(MmebTrain(p)), "t.parquet",
           set_up=with_picture_of),
    Fuzzed("tasks-jsonl", (lines(TASK_ROWS),), lambda p: read_tasks(p.parent.parent), "test/birds.jsonl", True,
           lambda f: tasks_of(f, "test/birds.jsonl")),
    Fuzzed("tasks-parquet", (parquet(TASK_ROWS),), lambda p: read_tasks(p.parent.parent), "test/birds.parquet", False,
           lambda f: tasks_of(f, "test/birds.parquet")),
    Fuzzed("tasks-manifest", (MANIFEST,), lambda p: read_tasks(p.parent), "manifest.json", True,
           lambda f: tasks_of(f, "test/birds.jsonl")),
    Fuzzed("archive", (zipped(),), read_archive, "images.zip"),
    Fuzzed("picture", tuple(encode(SMALL, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")),
           read_picture),
    Fuzzed("data-url", (URL,), lambda p: open_rgb(data_url_bytes(text_of(p), where="item 1"), where="item 1")),
    Fuzzed("card", ((ASSETS / "nano-embedder" / CARD).read_bytes(),), lambda p: Card.read(p.parent), CARD, True),
    Fuzzed("golden", ((ASSETS / "nano-embedder" / GOLDEN).read_bytes(),), lambda p: Golden.read(p.parent), GOLDEN, True,
           share=0.2),
    Fuzzed("settings", ((ASSETS / "nano" / "config.json").read_bytes(),), lambda p: refuse_what_could_run(p.parent),
           "config.json", True),
    backbone_file("config.json", 0.1),
    backbone_file("preprocessor_config.json", 0.1),
    backbone_file("tokenizer_config.json", 0.1),
    backbone_file("tokenizer.json", 0.1),
    backbone_file("model.safetensors", 0.1, weights=True),
    Fuzzed("embeddings-card", (), lambda p: Embeddings.open(p.parent).table(), EMBEDDINGS_CARD, True, with_embeddings),
    Fuzzed("index-card", (), lambda p: Index.open(p.parent).search_vectors(unit(1, 0)), "index.json", True, with_index),
    Fuzzed("plan", (), lambda p: Plan.read(p), "plan.json", True, with_plan),
    Fuzzed("corpus-jsonl", (lines(CORPUS_ROWS),), read_corpus, "c.jsonl", True, with_picture_of),
    Fuzzed("corpus-parquet", (parquet(CORPUS_ROWS),), read_corpus, "c.parquet", False, with_picture_of, share=0.02),
    Fuzzed("corpus-tar", (tarred(),), read_corpus, "c.tar"),
    Fuzzed("where", (WHERE,), lambda p: parse_filter(read_where(text_of(p)), KEPT)),
    Fuzzed("items", (ITEMS,), read_items, is_json=True, lone=True),
    Fuzzed("body", (BODY,), read_body, is_json=True, lone=True),
]  # fmt: skip
