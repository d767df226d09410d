"""A small retrieval task of pictures and words for mteb, made on the spot: nothing is downloaded."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from cocoa.data.scene_pairs import ScenePairs

NUM_PICTURES = 12


class LocalScenes(AbsTaskRetrieval):
    """Find the scene that a caption describes."""

    metadata = TaskMetadata(
        name="LocalScenes",
        description="Captions of generated scenes.",
        reference=None,
        dataset={"path": "local/scenes", "revision": "1"},
        type="Any2AnyRetrieval",
        category="t2i",
        modalities=["text", "image"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="hit_rate_at_1",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )

    def load_data(self, *_: Any, **__: Any) -> None:
        """Draws the scenes."""
        scenes = ScenePairs(seed=3, num_pairs=NUM_PICTURES)
        pairs = [scenes[number] for number in range(NUM_PICTURES)]
        names = [str(number) for number in range(NUM_PICTURES)]
        queries = [{"id": f"q{name}", "text": pair.target.text} for name, pair in zip(names, pairs, strict=True)]
        corpus = [{"id": f"d{name}", "image": pair.query.images[0]} for name, pair in zip(names, pairs, strict=True)]
        test = RetrievalSplitData(
            corpus=Dataset.from_list(corpus),
            queries=Dataset.from_list(queries),
            relevant_docs={f"q{name}": {f"d{name}": 1} for name in names},
            top_ranked=None,
        )
        self.dataset = {"default": {"test": test}}
        self.data_loaded = True
