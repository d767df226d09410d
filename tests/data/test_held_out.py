"""What is held out is asked and never trained on; every table of a set agrees on it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cocoa.data.held_out import HELD_OUT, MOST_CANDIDATES, HeldOut, held_out_tasks
from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_train import MmebTrain
from cocoa.data.scene_tasks import write_scene_tasks
from cocoa.data.sources import ImageTextPairsSource, MmebTrainSource
from cocoa.errors import DataError
from cocoa.images import image_key
from cocoa.sample import Pair, Sample, Task

OPEN = Path(__file__).parents[3] / "shared" / "data"
FIFTH = HeldOut(share=0.2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held") / "scenes"
    write_scene_tasks(folder, seed=0, num_train=60, num_test=12)
    return folder


def trained_on(folder: Path, held_out: HeldOut | None = FIFTH) -> list[Pair]:
    pairs = MmebTrainSource(path=folder, held_out=held_out, split="train").build()
    return [pairs[number] for number in range(len(pairs))]


def pictures(*samples: Sample) -> set[str]:
    return {image_key(image) for sample in samples for image in sample.images}


def asked(tasks: list[Task]) -> set[str]:
    """The pictures of the queries, or of the answers to queries without any."""
    return {
        picture
        for task in tasks
        for question in task.questions
        for picture in pictures(question.query) or pictures(question.candidates[0])
    }


def test_no_picture_that_is_asked_about_is_trained_on(scenes: Path) -> None:
    seen = pictures(*(side for pair in trained_on(scenes) for side in (pair.query, pair.target, *pair.negatives)))
    everything = pictures(*(side for pair in trained_on(scenes, None) for side in (pair.query, pair.target)))
    questions = asked(held_out_tasks(scenes, FIFTH))
    assert questions
    assert questions <= everything
    assert not questions & seen


def test_a_table_of_captions_leaves_out_the_same_pictures(scenes: Path) -> None:
    with pq.ParquetFile(scenes / "train" / "scene_i2t.parquet") as file:
        rows = file.read(["qry_image_path", "pos_text"]).to_pylist()
    table = {"image_path": [row["qry_image_path"] for row in rows], "text": [row["pos_text"] for row in rows]}
    pq.write_table(pa.table(table), scenes / "pairs.parquet")
    whole = ImageTextPairs(scenes / "pairs.parquet")
    left = ImageTextPairsSource(path=scenes / "pairs.parquet", held_out=FIFTH).build()
    shown = pictures(*(left[number].query for number in range(len(left))))
    assert 0 < len(left) < len(whole)
    assert not shown & asked(held_out_tasks(scenes, FIFTH))


def test_a_row_is_trained_on_or_asked_or_shows_something_held_out_beside(scenes: Path) -> None:
    every = trained_on(scenes, None)
    trains = {(pair.query.key, pair.target.key) for pair in trained_on(scenes)}
    asks = {
        (question.query.key, question.candidates[0].key)
        for task in held_out_tasks(scenes, FIFTH, most=10**6)
        for question in task.questions
    }
    assert not trains & asks
    neither = [pair for pair in every if (pair.query.key, pair.target.key) not in trains | asks]
    assert len(neither) < len(every) / 20


def test_the_share_and_the_seed_say_what_is_held_out() -> None:
    names = [f"train/{number}.webp" for number in range(4000)]
    held = {name for name in names if FIFTH.holds(name)}
    assert len(held) == pytest.approx(800, abs=80)
    assert held < {name for name in names if HeldOut(share=0.4).holds(name)}, "more of the same"
    other = {name for name in names if HeldOut(share=0.2, seed=1).holds(name)}
    assert len(held & other) == pytest.approx(160, abs=50)
    spellings = ("images/{}", "./{}", "MMEB/{}", "./images/MMEB/{}", "images\\{}")
    assert all(FIFTH.holds(spelling.format(name)) == (name in held) for spelling in spellings for name in names[:50])
    # A draw must not change: results that are kept were tuned by it.
    assert [number for number, name in enumerate(names[:40]) if name in held] == [
        0, 1, 6, 8, 9, 19, 23, 24, 31, 35, 38
    ]  # fmt: skip
    assert FIFTH.holds(names[0].encode()) == (names[0] in held)


def test_questions_have_the_right_candidate_first_and_no_candidate_twice(scenes: Path) -> None:
    right = {(pair.query.key, pair.target.key) for pair in trained_on(scenes, None)}
    for task in held_out_tasks(scenes, FIFTH):
        for question in task.questions:
            keys = [candidate.key for candidate in question.candidates]
            assert 2 <= len(keys) == len(set(keys)) <= MOST_CANDIDATES
            assert (question.query.key, keys[0]) in right
        assert task.chance == pytest.approx(
            sum(1 / len(question.candidates) for question in task.questions) / len(task.questions)
        )


def test_candidates_are_the_answers_of_the_table_or_in_grounding_the_crops_of_the_picture(scenes: Path) -> None:
    tasks = {task.name.removesuffix(HELD_OUT): task for task in held_out_tasks(scenes, FIFTH)}
    answers = {pair.target.key for pair in MmebTrain(scenes / "train" / "scene_vqa.parquet")}  # type: ignore[attr-defined]
    for question in tasks["scene_vqa"].questions:
        assert {candidate.key for candidate in question.candidates} == answers
    crops: dict[str, set[str]] = {}
    for pair in MmebTrain(scenes / "train" / "scene_grounding.parquet"):  # type: ignore[attr-defined]
        own = crops.setdefault(image_key(pair.query.images[0]), set())
        own |= {pair.target.key, *(negative.key for negative in pair.negatives)}
    for question in tasks["scene_grounding"].questions:
        found = {candidate.key for candidate in question.candidates}
        assert found == crops[image_key(question.query.images[0])]


def test_rows_of_words_alone_are_told_apart_by_their_words(tmp_path: Path) -> None:
    rows = {
        "qry": [f"question {number}" for number in range(200)],
        "qry_image_path": [""] * 200,
        "pos_text": [f"answer {number}" for number in range(200)],
        "pos_image_path": [""] * 200,
    }
    (tmp_path / "train").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "train" / "talk.parquet")
    (tmp_path / "manifest.json").write_text('{"tasks": {"talk": {"meta_task": "retrieval"}}}')
    [task] = held_out_tasks(tmp_path, FIFTH)
    trains = {pair.query.text for pair in trained_on(tmp_path)}
    asks = {question.query.text for question in task.questions}
    assert not trains & asks
    assert trains | asks == set(rows["qry"])
    assert {len(question.candidates) for question in task.questions} == {len(asks)}, "200 answers are too many"


def test_a_table_whose_rows_are_all_held_out_says_so_and_a_shard_is_no_table(tmp_path: Path) -> None:
    def write(name: str, questions: list[str]) -> Path:
        rows = {"qry": questions, "pos_text": ["yes"] * len(questions)}
        empty = dict.fromkeys(("qry_image_path", "pos_image_path"), [""] * len(questions))
        (tmp_path / "talk").mkdir(exist_ok=True)
        pq.write_table(pa.table(rows | empty), tmp_path / "talk" / name)
        return tmp_path / "talk" / name

    words = [f"question {number}" for number in range(60)]
    held = [text for text in words if FIFTH.holds(text)]
    shards = [f"original-0000{number}-of-00002.parquet" for number in range(2)]
    first = write(shards[0], held)
    with pytest.raises(DataError, match=rf"all {len(held)} rows of the table are held out \[E_DATA_EMPTY\]"):
        MmebTrainSource(path=first, held_out=FIFTH).build()
    write(shards[1], words)
    pairs = MmebTrainSource(path=tmp_path / "talk", held_out=FIFTH).build()
    assert len(pairs) == len(words) - len(held)
    write(shards[1], [held[0], ""])
    with pytest.raises(
        DataError, match=f"can be used, besides {len(held) + 1} that are held out; the first problem"
    ) as caught:
        MmebTrainSource(path=tmp_path / "talk", held_out=FIFTH).build(lambda error: None)
    assert caught.value.where == str(tmp_path / "talk")


def test_at_most_so_many_rows_are_asked_spread_over_the_table(scenes: Path) -> None:
    [every] = held_out_tasks(scenes, HeldOut(share=0.5), ["scene_cls"])
    [few] = held_out_tasks(scenes, HeldOut(share=0.5), ["scene_cls"], most=5)
    queries = [question.query.key for question in every.questions]
    assert [question.query.key for question in few.questions] == [
        queries[number * len(queries) // 5] for number in range(5)
    ]


def test_a_share_that_holds_out_nothing_is_refused(scenes: Path) -> None:
    with pytest.raises(DataError, match="E_DATA_EMPTY"):
        held_out_tasks(scenes, HeldOut(share=1e-9))


@pytest.mark.skipif(not OPEN.is_dir(), reason="the open sets are not here")
def test_the_open_sets_hold_out_a_part_of_every_task() -> None:
    tasks = held_out_tasks(OPEN, HeldOut(share=0.1), most=50)
    names = {path.stem for path in OPEN.glob("*/train/*.parquet")}
    assert {task.name.removesuffix(HELD_OUT) for task in tasks} == names
    assert all(len(task.questions) >= 5 for task in tasks), {task.name: len(task.questions) for task in tasks}
    seen = pictures(*(pair.query for pair in trained_on(OPEN, HeldOut(share=0.1))))
    assert not seen & {p for task in tasks for question in task.questions for p in pictures(question.query)}
