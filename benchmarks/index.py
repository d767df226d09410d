"""Search of many vectors beside faiss HNSW: `python -m benchmarks.index [--json FILE] [--rows N]`.

The rows are synthetic and clustered, as embeddings are: a centre on the unit sphere (one for 500 rows), a step of 24
latent directions that all clusters share, a little noise in all dimensions, unit norm. Queries are drawn in the same
way and are not among the rows; the truth is exact search in float32. All engines answer one query at a time, k = 10.

cocoa's times are those of `Index.search_vectors`: rows with ids and texts, scored again, checked, in order. Those of
faiss are of numbers in memory. Milvus takes part if COCOA_MILVUS_SERVER names a server (http://host:port). Each
approximate engine is asked with the least effort that reaches recall@10 of 0.95 on half of the queries, and measured on
the other half; where none does, with the most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.outcome import Case, Targets, outcome
from cocoa.corpus.embeddings import SHARDS, TABLE, Embeddings, ShardEntry, shard_schema, write_card, write_table
from cocoa.corpus.index import Index
from cocoa.files import sha256, write_folder

K = 10
TARGET_RECALL = 0.95
_SHARD = 100_000
Vectors = NDArray[np.float32]
Ask = Callable[[Vectors], list[int]]


def clustered(rows: int, dimensions: int, *, centres: int, seed: int) -> Vectors:
    """Returns float32 [rows, D] of unit norm around centres that depend on their number alone."""
    shared = np.random.default_rng(0)
    middle = shared.normal(size=(centres, dimensions)).astype(np.float32)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    directions = shared.normal(size=(24, dimensions)).astype(np.float32) / np.sqrt(dimensions)
    own = np.random.default_rng(seed)
    vectors = np.empty((rows, dimensions), np.float32)
    for start in range(0, rows, _SHARD):
        part = vectors[start : start + _SHARD]
        step = own.normal(size=(len(part), 24)).astype(np.float32) * np.float32(0.8 / np.sqrt(24))
        part[:] = middle[own.integers(centres, size=len(part))] + step @ directions
        part += 0.02 * own.normal(size=part.shape).astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def write_embeddings(folder: Path, vectors: Vectors) -> Embeddings:
    """Writes vectors as a folder of embeddings, as `cocoa embed` would."""
    dimensions, shards = vectors.shape[1], []
    schema = shard_schema(dimensions, {})
    for start in range(0, len(vectors), _SHARD):
        part, name = vectors[start : start + _SHARD], f"rows-{start:09}"
        held = {"id": [str(start + n) for n in range(len(part))], "text": [""] * len(part), "image": [""] * len(part)}
        with write_folder(folder / SHARDS / name) as draft:
            write_table(draft / TABLE, held, part, schema)
        shards.append(ShardEntry(name, len(part), 0, sha256(folder / SHARDS / name / TABLE)))
    identity = {"fingerprint": "synthetic", "dimensions": dimensions}
    write_card(
        folder, identity=identity, model="none", dimensions=dimensions, columns={}, source={}, shards=shards
    )  # fmt: skip
    return Embeddings.open(folder)


def measured(ask: Ask, queries: Vectors, truth: list[set[int]]) -> dict[str, float]:
    """Returns recall@10 and the latencies of queries asked one by one, after ten that are not counted."""
    for query in queries[:10]:
        ask(query[None])
    seconds, found = [], []
    for query, expected in zip(queries, truth, strict=True):
        start = time.perf_counter()
        answer = ask(query[None])
        seconds.append(time.perf_counter() - start)
        found.append(len(set(answer) & expected) / K)
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "recall_at_10": round(statistics.mean(found), 4),
        "p50_ms": round(1e3 * p50, 3),
        "p99_ms": round(1e3 * p99, 3),
    }


def least_effort(
    make: Callable[[int], Ask], efforts: Iterable[int], queries: Vectors, truth: list[set[int]]
) -> tuple[int, dict[str, float]]:
    """Returns the least effort that reaches the recall on half of the queries, and its measure on the other half."""
    half = len(queries) // 2
    for effort in efforts:
        if measured(make(effort), queries[:half], truth[:half])["recall_at_10"] >= TARGET_RECALL:
            break
    return effort, measured(make(effort), queries[half:], truth[half:])


def cocoa_ask(index: Index) -> Ask:
    """Returns what asks an index of ours."""
    return lambda query: [int(hit.id) for hit in index.search_vectors(query, K)[0]]


def faiss_ask(index: Any, effort: int) -> Ask:
    """Returns what asks a faiss HNSW index with an efSearch."""

    def ask(query: Vectors) -> list[int]:
        index.hnsw.efSearch = effort
        found: list[int] = index.search(query, K)[1][0].tolist()
        return found

    return ask


def read_rate(values: NDArray[np.float32], *, repeats: int = 7) -> float:
    """Returns the bytes a second at which values are read: the median of sums of their squares, after one uncounted.

    As exact search does, it reads each value once and writes none of them.
    """
    np.dot(values, values)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.dot(values, values)
        seconds.append(time.perf_counter() - start)
    return values.nbytes / statistics.median(seconds)


def run(rows: int, dimensions: int, num_queries: int, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns the measures of every engine on the same rows and queries."""
    centres = max(10, rows // 500)
    vectors = clustered(rows, dimensions, centres=centres, seed=1)
    queries = clustered(num_queries, dimensions, centres=centres, seed=2)
    start = time.perf_counter()
    scores = queries @ vectors.T
    best = np.argpartition(-scores, K - 1, axis=1)[:, :K]
    truth = [set(row.tolist()) for row in best]
    say(f"exact truth of {num_queries} queries in {time.perf_counter() - start:.1f} s")
    del scores
    engines: dict[str, Any] = {}

    bandwidth = read_rate(vectors.reshape(-1))

    embeddings = write_embeddings(folder / "embeddings", vectors)
    start = time.perf_counter()
    index = Index.build(embeddings, folder / "index", say=say)
    built = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file())
    half = num_queries // 2
    engines["cocoa, embedded (LanceDB)"] = {
        "build_seconds": round(built, 1),
        "megabytes": round(size / 1e6, 1),
        "approximate": index.approximate,
        **measured(cocoa_ask(index), queries[half:], truth[half:]),
    }
    say(json.dumps(engines["cocoa, embedded (LanceDB)"]))

    exact = Index.open(embeddings.folder)
    engines["cocoa, exact in memory"] = {
        "megabytes": round(vectors.nbytes / 1e6, 1),
        **measured(cocoa_ask(exact), queries[half : half + 50], truth[half : half + 50]),
    }
    exact.close()
    del exact
    say(json.dumps(engines["cocoa, exact in memory"]))

    start = time.perf_counter()
    graph = faiss.IndexHNSWFlat(dimensions, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 200
    graph.add(vectors)
    built = time.perf_counter() - start
    faiss.write_index(graph, str(folder / "faiss"))
    effort, measure = least_effort(lambda ef: faiss_ask(graph, ef), (16, 32, 64, 128, 256, 512), queries, truth)
    engines["faiss HNSW"] = {
        "build_seconds": round(built, 1),
        "megabytes": round((folder / "faiss").stat().st_size / 1e6, 1),
        "effort": effort,
        **measure,
    }
    say(json.dumps(engines["faiss HNSW"]))
    if server := os.environ.get("COCOA_MILVUS_SERVER"):
        address = server.partition("://")[2].strip("/")
        start = time.perf_counter()
        index = Index.build(embeddings, f"milvus://{address}/benchmark", replace=True)
        ready = wait_until_indexed(index)
        engines["cocoa, Milvus"] = {
            "build_seconds": round(time.perf_counter() - start, 1),
            "indexed_rows": ready,
            **measured(cocoa_ask(index), queries[half:], truth[half:]),
        }
        index.close()
        say(json.dumps(engines["cocoa, Milvus"]))

    own = engines["cocoa, embedded (LanceDB)"]
    scan = vectors.nbytes / (1e-3 * engines["cocoa, exact in memory"]["p50_ms"])
    return {
        # Exact search reads every vector once: how near to the memory's rate it does so.
        **outcome(
            "index",
            "faiss HNSW",
            "rate of memory, by exact search",
            [Case(f"{rows:,} rows", engines["faiss HNSW"]["p50_ms"] / own["p50_ms"], None, scan / bandwidth)],
            Targets(),
        ),
        "build_ratio": round(engines["faiss HNSW"]["build_seconds"] / own["build_seconds"], 2),
        "memory_gigabytes_a_second": round(bandwidth / 1e9, 1),
        "rows": rows,
        "dimensions": dimensions,
        "centres": centres,
        "queries": num_queries - half,
        "engines": engines,
    }


def wait_until_indexed(index: Index) -> int:
    """Returns how many rows Milvus has in its graph, once it is all of them."""
    client, name = index._store._client, "benchmark"  # type: ignore[attr-defined]
    client.flush(name)
    while True:
        state = client.describe_index(name, "vector")
        if state.get("pending_index_rows", 0) == 0:
            return int(state.get("indexed_rows", -1))
        time.sleep(1)


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = run(
            options.rows, options.dimensions, options.queries, Path(folder), lambda line: print(line, flush=True)
        )
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads of faiss"
    result["load_at_end"] = round(os.getloadavg()[0], 1)
    result["date"] = time.strftime("%Y-%m-%d", time.gmtime())
    result["command"] = f"python -m benchmarks.index --rows {options.rows} --dimensions {options.dimensions}"
    for name, engine in result["engines"].items():
        build = f"built in {engine['build_seconds']:8.1f} s" if "build_seconds" in engine else " " * 20
        size = f"{engine['megabytes']:8.0f} MB" if "megabytes" in engine else " " * 11
        print(
            f"{name:28}{build}  {size}   recall@10 {engine['recall_at_10']:.3f}"
            f"   p50 {engine['p50_ms']:8.2f} ms   p99 {engine['p99_ms']:8.2f} ms"
        )
    print(f"{result['rows']:,} rows of {result['dimensions']}; {result['machine']}; load {result['load_at_end']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
