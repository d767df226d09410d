"""A job as a whole: our readers read what it writes; again, elsewhere and with failures it does what it should."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import zipfile

import pyarrow.parquet as pq
import pytest

from cocoa.data.image_text_pairs import ImageTextPairs
from cocoa.data.mmeb_train import MmebTrain
from cocoa.errors import CocoaError, DataError, UsageError
from cocoa.images import open_rgb
from cocoa.synthesis import Endpoint, EndpointError, EndpointRefusedError, Prices, Sampling, synthesize
from picture_files import spoil_member

KEY = "sk-secret-0123456789abcdef"


@pytest.fixture
def run(model, pictures, tmp_path):
    """Runs a job against the server: `run(kind="captions", ...)`; options of `Endpoint` in `endpoint`."""

    def job(images=pictures, out=tmp_path / "out", *, kind="captions", endpoint=None, **options):
        settings = {"concurrency": 4, "retries": 1, "backoff": 0.001, **(endpoint or {})}
        with Endpoint(model.url, "m", **settings) as engine:
            return synthesize(images, out, kind=kind, engine=engine, **{"shard_size": 2, **options})

    return job


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_captions_are_read_by_their_reader(run, model, pictures):
    summary = run()
    assert (summary.pictures, summary.rows, summary.dropped, summary.bad) == (6, 6, {}, {})
    assert (summary.prompt_tokens, summary.completion_tokens) == (600, 120)
    pairs = ImageTextPairs(summary.table)
    assert len(pairs) == 6
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    table = pq.read_table(summary.table).to_pylist()
    assert [row["image_path"] for row in table] == names
    for pair, name in zip([pairs[number] for number in range(6)], names, strict=True):
        red, green, blue = open_rgb(pictures / name).getpixel((3, 3))
        assert open_rgb(pair.query.images[0]).getpixel((3, 3)) == (red, green, blue)
        said = [int(word) for word in pair.target.text.split("means ")[1].split(",")[0].split()]
        assert all(abs(8 * a - b) <= 7 for a, b in zip(said, (red, green, blue), strict=True))
    assert model.most_at_once <= 4


def test_questions_are_read_by_their_reader(run, tmp_path):
    summary = run(kind="questions")
    assert summary.rows == 18
    for place in (summary.table, tmp_path / "out"):
        pairs = MmebTrain(place)
        assert len(pairs) == 18
        assert pairs[1].query.text == "<|image_1|>\nWhat is the value of channel green?\n"
        assert pairs[1].target.text.startswith("In turn 3 the mean is ")
        assert not pairs[1].target.images


def test_each_row_says_where_it_comes_from(run, model):
    summary = run(kind="questions", sampling=Sampling(temperature=0.1, extra={"top_p": 0.9}))
    row = pq.read_table(summary.table).to_pylist()[0]
    assert (row["model"], row["endpoint"], row["prompts"]) == ("m", model.url.split("/")[2], "questions")
    assert len(row["image_sha256"]) == len(row["prompts_sha256"]) == 64
    assert json.loads(row["settings"])["extra"] == {"top_p": 0.9}
    manifest = json.loads((summary.table.parent / "manifest.json").read_text())
    assert manifest["summary"]["rows"] == 18
    assert manifest["finished"][:2] == "20"


@pytest.mark.parametrize("copy_images", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_come_from_a_folder_or_an_archive_and_may_be_copied(run, pictures, tmp_path, zipped, copy_images):
    images = pictures
    if zipped:
        images = tmp_path / "pictures.zip"
        with zipfile.ZipFile(images, "w") as archive:
            for path in sorted(pictures.rglob("*")):
                archive.write(path, path.relative_to(pictures))
            archive.writestr("__MACOSX/._000.png", "x")
            archive.writestr("notes.txt", "x")
    summary = run(images, copy_images=copy_images)
    assert summary.rows == 6
    if copy_images:
        (tmp_path / "out").rename(tmp_path / "moved")
        images.rename(tmp_path / "gone")
        assert len(ImageTextPairs(tmp_path / "moved" / "captions.parquet")) == 6
    else:
        assert len(ImageTextPairs(summary.table)) == 6
        assert not list((tmp_path / "out").rglob("*.png"))


def test_a_damaged_member_of_an_archive_is_a_bad_picture(run, pictures, tmp_path):
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(pictures.rglob("*.png")):
            file.write(path, path.relative_to(pictures))
    spoil_member(archive, "001.png")
    for copy_images in (False, True):
        summary = run(archive, tmp_path / f"out-{copy_images}", copy_images=copy_images)
        assert (summary.rows, summary.bad) == (5, {"E_IMAGE_OPEN": 1})


def test_equal_pictures_are_asked_about_once(run, model, pictures):
    (pictures / "zzz.png").write_bytes((pictures / "001.png").read_bytes())
    summary = run()
    assert (len(model.asked), summary.rows, summary.dropped) == (6, 6, {"duplicate_image": 1})
    (dropped,) = json_lines(summary.table.parent / "job" / "dropped.jsonl")
    assert dropped["picture"] == "zzz.png"


def test_a_finished_job_does_nothing_again(run, model, tmp_path):
    first = run()
    before = files(tmp_path / "out")
    said = []
    assert run(say=said.append) == first
    assert files(tmp_path / "out") == before
    assert len(model.asked) == 6
    assert said == ["finished before: nothing was asked"]


def test_a_lost_table_is_made_again_without_asking(run, model):
    summary = run()
    content = summary.table.read_bytes()
    summary.table.unlink()
    assert run() == summary
    assert summary.table.read_bytes() == content
    assert len(model.asked) == 6


def test_how_fast_and_where_it_is_asked_is_no_other_job(run, model):
    assert run() == run(endpoint={"concurrency": 1, "timeout": 9.0}, prices=Prices(1, 2), give_up_after=3)
    assert len(model.asked) == 6


def test_another_job_is_refused_with_all_that_differs(run, model, pictures, tmp_path):
    run(limit=5)
    before = files(tmp_path / "out")
    (pictures / "001.png").write_bytes((pictures / "002.png").read_bytes())
    with pytest.raises(UsageError) as caught:
        run(sampling=Sampling(temperature=0.2), shard_size=3)
    for difference in ("temperature is 0.2, was 0.7", "shard_size is 3, was 2", "pictures are new (", "(001.png)"):
        assert difference in str(caught.value)
    with pytest.raises(UsageError, match="kind is 'questions', was 'captions'"):
        run(kind="questions")
    assert files(tmp_path / "out") == before
    assert len(model.asked) == 5


def test_a_folder_of_something_else_is_refused(run, pictures, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="not of a synthesis job"):
        run()
    with pytest.raises(UsageError, match="lies in that of the pictures"):
        run(out=pictures / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_one_process_at_a_time(run, tmp_path):
    run(limit=1)
    with (tmp_path / "out" / "job" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            run(limit=1)


def test_bad_pictures_and_bad_replies_are_listed_with_codes(run, model, usual, pictures):
    (pictures / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    (pictures / "gone.png").symlink_to(pictures / "nowhere.png")
    (pictures / "out.png").symlink_to("/etc/passwd")
    os.mkfifo(pictures / "pipe.png")
    sick = usual_of(pictures / "001.png", model, run, usual)
    model.behave = lambda asked, _: {"choices": []} if usual(asked) == sick else usual(asked)
    summary = run()
    rows = json_lines(summary.table.parent / "job" / "bad_rows.jsonl")
    assert {row["where"]: row["code"] for row in rows} == {
        "bad.png": "E_IMAGE_OPEN",
        "gone.png": "E_IMAGE_MISSING",
        "out.png": "E_DATA_PATH",
        "pipe.png": "E_IMAGE_MISSING",
        "001.png": "E_REPLY_CHOICES",
    }
    assert (summary.rows, sum(summary.bad.values())) == (5, 5)
    assert len(ImageTextPairs(summary.table)) == 5


def usual_of(path, model, run, usual):
    """What the model says of one picture."""
    said = []
    model.behave = lambda asked, _: said.append(usual(asked)) or usual(asked)
    folder = path.parent.parent / "one"
    folder.mkdir()
    (folder / path.name).write_bytes(path.read_bytes())
    run(folder, path.parent.parent / "one-out")
    return said[0]


def test_bad_rows_can_be_asked_again_and_nothing_else_is(run, model, usual, pictures):
    sick = usual_of(pictures / "001.png", model, run, usual)
    model.behave = lambda asked, _: {"choices": []} if usual(asked) == sick else usual(asked)
    summary = run()
    assert summary.bad == {"E_REPLY_CHOICES": 1}
    model.behave = None
    model.asked.clear()
    assert run() == summary
    assert not model.asked
    healed = run(retry_bad=True)
    assert (healed.rows, healed.bad, len(model.asked)) == (6, {}, 1)
    assert [row["image_path"] for row in pq.read_table(healed.table).to_pylist()].count("001.png") == 1
    assert run(retry_bad=True) == healed
    assert len(model.asked) == 1


def test_what_failed_questions_cost_is_counted_in_every_run(run, model, usual, body, pictures):
    sick = usual_of(pictures / "001.png", model, run, usual)
    model.behave = lambda asked, _: body("", tokens=(9, 1)) if usual(asked) == sick else usual(asked)
    seen = []
    summary = run(on_progress=lambda progress: seen.append((progress.prompt_tokens, progress.completion_tokens)))
    paid = (summary.prompt_tokens, summary.completion_tokens)
    # Five replies, and two attempts at the sixth.
    assert paid == seen[-1] == (518, 102)
    assert run(retry_bad=True).prompt_tokens == 518 + 18
    model.behave = None
    assert run(retry_bad=True, on_progress=lambda progress: seen.append(progress.prompt_tokens)).prompt_tokens == 636
    assert seen[-1] == 636


def test_dropped_texts_are_counted_and_listed(run, model, usual):
    texts = ["I'm sorry, I cannot help with that.", "Cat.", "stop and go and " * 9]
    model.behave = lambda asked, _: texts[asked.number] if asked.number < 3 else usual(asked)
    summary = run(endpoint={"concurrency": 1})
    assert summary.dropped == {"refusal": 1, "repetition": 1, "too_short": 1}
    assert [row["text"] for row in json_lines(summary.table.parent / "job" / "dropped.jsonl")] == [
        text.strip() for text in texts
    ]
    assert summary.rows == 3


def test_an_endpoint_that_went_down_ends_the_job_and_costs_no_row(run, model, usual, contents, tmp_path):
    model.behave = lambda asked, _: usual(asked) if asked.number < 3 else 503
    with pytest.raises(EndpointError, match="2 pictures in a row got no reply") as caught:
        run(endpoint={"concurrency": 1, "retries": 0}, shard_size=1, give_up_after=2)
    assert caught.value.code == "E_ENDPOINT_DOWN"
    model.behave = None
    model.asked.clear()
    summary = run(shard_size=1)
    assert (summary.rows, summary.bad, len(model.asked)) == (6, {}, 3)
    whole = run(out=tmp_path / "whole", shard_size=1)
    assert contents(whole.table.parent) == contents(summary.table.parent)


def test_an_endpoint_that_is_not_there_costs_no_row_of_a_small_job(run, model, tmp_path):
    where, model.url = model.url, "http://127.0.0.1:9/v1"
    for _ in range(2):
        with pytest.raises(EndpointError, match=r"6 pictures in a row got no reply.*127.0.0.1:9 failed") as caught:
            run()
        assert caught.value.code == "E_ENDPOINT_DOWN"
    model.url = where
    summary = run()
    assert (summary.rows, summary.bad) == (6, {})


def test_an_endpoint_that_never_replied_is_no_fault_of_the_pictures(run, model):
    model.behave = lambda asked, _: 503
    with pytest.raises(EndpointError, match=r"6 pictures in a row got no reply.*status 503") as caught:
        run()
    assert caught.value.code == "E_ENDPOINT_DOWN"
    model.behave = None
    assert run().bad == {}


@pytest.mark.parametrize("left", [1, 2])
def test_an_endpoint_that_is_busy_at_the_end_costs_no_row(run, model, usual, left):
    model.behave = lambda asked, _: usual(asked) if asked.number < 6 - left else (429, {"Retry-After": "0.01"})
    with pytest.raises(EndpointError, match=f"{left} picture.* got no reply.*status 429") as caught:
        run(endpoint={"concurrency": 1})
    assert caught.value.code == "E_ENDPOINT_DOWN"
    model.behave = None
    model.asked.clear()
    summary = run()
    assert (summary.rows, summary.bad, len(model.asked)) == (6, {}, left)


def test_a_picture_that_gets_no_reply_from_an_endpoint_that_is_there_does_not_hold_up_the_job(run, model, usual):
    model.behave = lambda asked, _: usual(asked) if asked.number < 5 else 500
    summary = run(endpoint={"concurrency": 1})
    assert (summary.rows, summary.bad) == (5, {"E_ENDPOINT_STATUS": 1})
    model.behave = lambda asked, _: 500
    assert run(endpoint={"concurrency": 1}, retry_bad=True) == summary


def test_where_no_row_is_left_it_is_said_how_the_bad_are_asked_again(run, model):
    model.behave = lambda asked, _: "Cat." if asked.number < 5 else {"choices": []}
    with pytest.raises(DataError, match="--retry-bad asks again"):
        run(endpoint={"concurrency": 1})
    model.behave = None
    assert run(retry_bad=True).rows == 1


def test_a_refused_job_stops_at_once(run, model, tmp_path):
    model.behave = lambda asked, _: 401
    with pytest.raises(EndpointRefusedError):
        run()
    assert len(model.asked) <= 4
    assert not (tmp_path / "out" / "captions.parquet").exists()


def test_a_request_that_is_wrong_for_every_picture_ends_the_job_with_what_the_server_says(run, model, paint, tmp_path):
    model.behave = lambda asked, _: (400, {})
    with pytest.raises(EndpointError, match=r"3 pictures in a row got no reply.*status 400: no"):
        run(paint(tmp_path / "many", 24), give_up_after=3)
    # What was asked for in the meantime comes to no more than twice as many as are asked at once.
    assert 3 <= len(model.asked) <= 3 + 8


def test_no_row_left_is_an_error_and_stays_one_without_asking(run, model):
    model.behave = lambda asked, _: "Cat."
    for _ in range(2):
        with pytest.raises(DataError, match=r"no row is left of 6 pictures: dropped \{'too_short': 6\}"):
            run()
    assert len(model.asked) == 6


def test_a_torn_journal_line_is_asked_again_alone(run, model, usual, tmp_path):
    model.behave = lambda asked, _: usual(asked) if asked.number < 4 else 401
    with pytest.raises(EndpointRefusedError):
        run(shard_size=6, endpoint={"concurrency": 1})
    journal = tmp_path / "out" / "job" / "journal" / "00000.jsonl"
    assert len(json_lines(journal)) == 4
    journal.write_bytes(journal.read_bytes()[:-9])
    model.behave = None
    model.asked.clear()
    assert run(shard_size=6).rows == 6
    assert len(model.asked) == 3
    assert not journal.exists()


def test_a_damaged_shard_is_found(run, tmp_path):
    run()
    (tmp_path / "out" / "manifest.json").unlink()
    shard = tmp_path / "out" / "job" / "shards" / "00001.json"
    shard.write_bytes(shard.read_bytes().replace(b"plain", b"plane", 1))
    with pytest.raises(DataError, match="not as it was written"):
        run()
    shard.unlink()
    assert run().rows == 6


@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_no_more_requests_at_once_than_allowed(run, model, usual, paint, tmp_path, concurrency):
    model.seconds = 0.02

    def wait_for_company(asked, _):
        # A busy machine begins the first requests one long after another; nobody is answered before all are there.
        until = time.monotonic() + 10
        while model.most_at_once < concurrency and time.monotonic() < until:
            time.sleep(0.001)
        return usual(asked)

    model.behave = wait_for_company
    run(paint(tmp_path / "many", 24), endpoint={"concurrency": concurrency})
    assert model.most_at_once == concurrency


def test_an_interrupt_keeps_what_was_in_flight(run, model, tmp_path):
    model.seconds = 0.1

    def interrupt(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=interrupt, endpoint={"concurrency": 2})
    model.seconds = 0.0
    asked = len(model.asked)
    assert asked <= 4
    assert run().rows == 6
    assert len(model.asked) == 6
    assert threading.active_count() < 20


def test_progress_says_what_it_costs_and_when_it_is_done(run, model):
    lines, seen = [], []

    def note(progress):
        lines.append(progress.line())
        seen.append((progress.done, progress.rows, progress.cost, progress.seconds_left))

    model.seconds = 0.02
    run(on_progress=note, prices=Prices(prompt=1000, completion=10_000), endpoint={"concurrency": 1})
    assert [done for done, *_ in seen] == list(range(1, 7))
    assert [rows for _, rows, *_ in seen] == list(range(1, 7))
    assert "2/6 pictures" in lines[1]
    assert "left" in lines[1]
    assert "0 dropped, 0 bad" in lines[1]
    assert "of about" in lines[1]
    assert lines[-1].endswith("600 + 120 tokens · cost 1.80")
    assert seen[-1][2:] == (pytest.approx(1.8), pytest.approx(0.0))


def test_a_limit_draws_the_same_pictures_for_a_seed(run, tmp_path):
    def drawn(out, seed):
        table = run(out=tmp_path / out, limit=3, sampling=Sampling(seed=seed)).table
        return [row["image_path"] for row in pq.read_table(table).to_pylist()]

    assert drawn("a", 1) == drawn("b", 1)
    assert len({tuple(drawn(f"c{seed}", seed)) for seed in range(4)}) > 1


def test_the_key_is_in_no_file_and_no_message(run, model, tmp_path, monkeypatch, usual, capfd):
    monkeypatch.setenv("SOME_KEY", KEY)
    said = []
    model.behave = lambda asked, _: 500 if asked.number == 2 else f"{usual(asked)} {asked.authorization}"
    run(endpoint={"api_key_env": "SOME_KEY"}, say=said.append, on_progress=lambda p: said.append(p.line()))
    assert all(asked.authorization == f"Bearer {KEY}" for asked in model.asked)
    assert not [path for path, content in files(tmp_path / "out").items() if KEY.encode() in content]
    assert "***" in pq.read_table(tmp_path / "out" / "captions.parquet").to_pylist()[0]["text"]
    model.behave = lambda asked, _: {"error": {"message": asked.authorization}}
    with pytest.raises(CocoaError) as caught:
        run(out=tmp_path / "other", endpoint={"api_key_env": "SOME_KEY"}, give_up_after=2)
    captured = capfd.readouterr()
    assert KEY not in str(caught.value) + "".join(said) + captured.out + captured.err


def test_slow_and_failing_replies_change_nothing_in_the_files(run, model, usual, contents, tmp_path):
    whole = contents(run(out=tmp_path / "whole").table.parent)

    def moody(asked, _):
        time.sleep(0.01 * (asked.number % 3))
        return [usual(asked), 500, {}, (429, {"Retry-After": "0.01"})][asked.number % 4]

    model.behave = moody
    model.asked.clear()
    assert contents(run(endpoint={"retries": 30}).table.parent) == whole
    assert len(model.asked) > 12


def test_prompts_of_ones_own_decide_what_is_asked(run, model, tmp_path):
    prompts = tmp_path / "mine.yaml"
    prompts.write_text(
        'kind: questions\nquestions: ["how many channel things?"]\nquery: "<|image_1|>\\nAnswer: {question}\\n"\n'
    )
    summary = run(kind="questions", prompts=str(prompts))
    assert MmebTrain(summary.table)[0].query.text == "<|image_1|>\nAnswer: how many channel things?\n"
    assert {asked.turns[0] for asked in model.asked} == {"how many channel things?"}
    with pytest.raises(UsageError, match="are for questions, not for captions"):
        run(prompts=str(prompts), out=tmp_path / "other")


def test_wrong_use_is_named(run, tmp_path):
    with pytest.raises(UsageError, match="1 or more"):
        run(shard_size=0)
    with pytest.raises(UsageError, match="limit is 0"):
        run(limit=0)
    with pytest.raises(DataError, match="not a folder of pictures"):
        run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        run(tmp_path / "empty")
