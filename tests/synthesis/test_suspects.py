"""A picture at which the endpoint goes down does not keep a job from its end, and costs no other picture its row."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from cocoa.errors import DataError
from cocoa.synthesis import Endpoint, synthesize
from cocoa.synthesis.chats import Chat, EndpointError, Picture, Reply, Sampling


class Fragile:
    """An engine that goes down at some pictures; `comes_back` says whether somebody starts it again at once."""

    model = "m"
    follows_instructions = True

    def __init__(self, *deadly: str, concurrency: int = 4, comes_back: bool = False) -> None:
        self.deadly, self.concurrency, self.comes_back = set(deadly), concurrency, comes_back
        self.is_up = True
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def check(self, sampling: Sampling) -> None:
        """Nothing to refuse."""

    def ask(self, chat: Chat, sampling: Sampling, stop: threading.Event) -> Reply:
        name = chat.picture.name
        with self.lock:
            self.asked.append(name)
            if self.is_up and name not in self.deadly:
                return Reply(f"A plain picture of one even colour that is called {name} and no more", "stop", 9, 9, "h")
            error = EndpointError("E_ENDPOINT_CONNECTION", "the connection failed")
            error.dropped = self.is_up
            self.is_up = self.is_up and self.comes_back
            raise error


@pytest.fixture
def until_done(pictures, tmp_path):
    """Calls a job until it ends, the engine started again each time; returns what it made, and the number of calls."""

    def job(engine, *, most=12, **options):
        for number in range(1, most + 1):
            engine.is_up, engine.asked = True, []
            try:
                made = synthesize(pictures, tmp_path / "out", kind="captions", engine=engine, shard_size=2, **options)
            except EndpointError as error:
                assert error.code == "E_ENDPOINT_DOWN"
            else:
                return made, number
        raise AssertionError("the job does not come to an end")

    return job


def bad_rows(made):
    return [json.loads(line) for line in (made.table.parent / "job" / "bad_rows.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("comes_back", [False, True])
@pytest.mark.parametrize("deadly", [("001.png",), ("inner/000.png",), ("005.png",), ("005.png", "inner/003.png")])
def test_it_is_set_aside_and_named_and_all_others_keep_their_rows(until_done, deadly, comes_back):
    made, calls = until_done(Fragile(*deadly, comes_back=comes_back), give_up_after=2)
    assert calls <= 2 + 2 * len(deadly)
    assert made.rows == 6 - len(deadly)
    assert {row["where"] for row in bad_rows(made)} == set(deadly)
    # Where others were replied to meanwhile, a broken connection is the picture's own fault at once.
    assert set(made.bad) <= {"E_ENDPOINT_DROPPED", "E_ENDPOINT_CONNECTION"} and sum(made.bad.values()) == len(deadly)


@pytest.mark.parametrize("deadly", [("001.png",), ("inner/000.png",), ("005.png",), ("005.png", "inner/003.png")])
def test_where_nothing_is_asked_beside_it_the_reason_is_that_the_endpoint_broke_off_each_time(until_done, deadly):
    made, _ = until_done(Fragile(*deadly, concurrency=1), give_up_after=2)
    assert made.bad == {"E_ENDPOINT_DROPPED": len(deadly)}
    assert all("--retry-bad asks again" in row["message"] for row in bad_rows(made))


def test_it_is_asked_again_by_option_and_nothing_else_is(until_done):
    engine = Fragile("001.png")
    until_done(engine)
    engine.deadly = set()
    made, calls = until_done(engine)
    assert (made.rows, calls, engine.asked) == (5, 1, []), "finished, it asks nothing"
    made, _ = until_done(engine, retry_bad=True)
    assert (made.rows, made.bad, engine.asked) == (6, {}, ["001.png"])


def test_an_outage_sets_no_picture_aside_however_long_it_is(pictures, tmp_path):
    engine = Fragile(concurrency=2)
    engine.is_up = False
    for _ in range(6):
        with pytest.raises(EndpointError):
            synthesize(pictures, tmp_path / "out", kind="captions", engine=engine, give_up_after=2)
    engine.is_up = True
    assert synthesize(pictures, tmp_path / "out", kind="captions", engine=engine).bad == {}


def test_where_it_is_all_that_there_is_the_job_ends_too(until_done, pictures):
    for path in [*pictures.rglob("*.png")][1:]:
        path.unlink()
    [only] = pictures.rglob("*.png")
    with pytest.raises(DataError, match="--retry-bad asks again about the bad"):
        until_done(Fragile(only.relative_to(pictures).as_posix()))


def test_an_endpoint_that_breaks_off_is_told_from_one_that_is_not_there(model, pictures):
    model.behave = lambda asked, _: None
    chat = Chat(Picture("001.png", "0", pictures / "001.png", 10_000), ("what is this",))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        for url, dropped in ((model.url, True), (nobody, False)):
            with Endpoint(url, "m", retries=1, backoff=0.001) as engine, pytest.raises(EndpointError) as caught:
                engine.ask(chat, Sampling(), threading.Event())
            assert (caught.value.code, caught.value.dropped) == ("E_ENDPOINT_CONNECTION", dropped)
    # It is down when it is asked again: that it broke off before is not forgotten.
    answers = iter([None, 503])
    model.behave = lambda asked, _: next(answers)
    with Endpoint(model.url, "m", retries=1, backoff=0.001) as engine, pytest.raises(EndpointError) as caught:
        engine.ask(chat, Sampling(), threading.Event())
    assert (caught.value.code, caught.value.dropped) == ("E_ENDPOINT_STATUS", True)
