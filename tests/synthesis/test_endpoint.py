"""Asking an endpoint: what is sent, what is tried again, what is not, and what never leaves."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
from PIL import Image

from cocoa.errors import ImageError, UsageError
from cocoa.synthesis import Endpoint, EndpointError, EndpointRefusedError, Sampling
from cocoa.synthesis.chats import Chat, Picture, StoppedError

KEY = "sk-secret-0123456789abcdef"


@pytest.fixture
def picture():
    return Picture("a.png", "0" * 64, Image.new("RGB", (60, 30), (200, 40, 40)), 900)


@pytest.fixture
def ask(model, picture):
    """Asks the endpoint about a picture; options of `Endpoint` may be given."""
    opened = []

    def asked(*turns, sampling=None, stop=None, **options):
        engine = Endpoint(model.url, "some/model", **{"backoff": 0.001, "retries": 2, **options})
        opened.append(engine)
        return engine.ask(Chat(picture, turns or ("What?",), "Be plain."), sampling or Sampling(), stop or _going())

    yield asked
    for engine in opened:
        engine.close()


def _going():
    return threading.Event()


def in_turn(*answers):
    """A model that gives these answers one after another, the last for ever."""
    return lambda asked, _: answers[min(asked.number, len(answers) - 1)]


def test_the_picture_and_all_turns_arrive_as_the_interface_has_them(model, ask):
    model.behave = in_turn("Red.")
    sampling = Sampling(temperature=0.2, max_tokens=7, seed=3, extra={"top_p": 0.5, "max_tokens": None})
    reply = ask("What?", "Red.", "Sure?", sampling=sampling)
    assert (reply.text, reply.finish, reply.prompt_tokens, reply.completion_tokens) == ("Red.", "stop", 100, 20)
    assert reply.host == model.url.split("/")[2]
    (asked,) = model.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.authorization == ""
    assert asked.turns == ["What?", "Red.", "Sure?"]
    assert [message["role"] for message in asked.body["messages"]] == ["system", "user", "assistant", "user"]
    # Made smaller to 900 pixels, in its shape.
    assert asked.picture.size == (42, 21)
    assert {name: asked.body[name] for name in asked.body if name != "messages"} == {
        "model": "some/model",
        "temperature": 0.2,
        "seed": 3,
        "top_p": 0.5,
    }


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 529])
def test_a_status_that_may_pass_is_tried_again(model, ask, status):
    model.behave = in_turn(status, status, "Red.")
    assert ask().text == "Red."
    assert len({asked.body["seed"] for asked in model.asked}) == 3


def test_what_does_not_pass_is_given_up(model, ask):
    model.behave = in_turn(500)
    with pytest.raises(EndpointError, match="status 500: no, tried 3 times"):
        ask()
    assert len(model.asked) == 3


@pytest.mark.parametrize("how", ["seconds", "date"])
def test_retry_after_is_waited_for_by_everyone(model, ask, picture, how):
    seconds = 0.3 if how == "seconds" else 2.0
    wanted = "0.3" if how == "seconds" else formatdate(time.time() + seconds, usegmt=True)
    model.behave = in_turn((429, {"Retry-After": wanted}), "Red.")
    times = []
    engine = Endpoint(model.url, "m", backoff=0.001, concurrency=2)
    chat = Chat(picture, ("What?",))

    def timed():
        engine.ask(chat, Sampling(), _going())
        times.append(time.monotonic())

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(timed)
        while not model.asked:
            time.sleep(0.001)
        time.sleep(0.05)
        pool.submit(timed)
    engine.close()
    assert len(times) == 2
    # A date has whole seconds.
    assert min(times) - began >= seconds - (0.05 if how == "seconds" else 1.0)


def test_a_reset_connection_is_tried_again(model, ask):
    def reset(asked, handler):
        if asked.number:
            return "Red."
        # Closed with a reset, not with a goodbye.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        return None

    model.behave = reset
    assert ask().text == "Red."
    assert len(model.asked) == 2


def test_nobody_at_the_address_is_an_error_that_names_it(picture):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        engine = Endpoint(f"http://{host}/v1", "m", retries=1, backoff=0.001)
        with engine, pytest.raises(EndpointError, match=f"{host} failed") as caught:
            engine.ask(Chat(picture, ("What?",)), Sampling(), _going())
    assert caught.value.code == "E_ENDPOINT_CONNECTION"


def test_a_slow_reply_is_a_timeout(model, ask):
    model.seconds = 0.25
    with pytest.raises(EndpointError, match=r"no reply within 0.1 s, tried 2 times") as caught:
        ask(timeout=0.1, retries=1)
    assert caught.value.code == "E_ENDPOINT_TIMEOUT"
    time.sleep(0.3)  # The server's threads end.


def test_a_reply_that_drips_is_a_timeout_too(model, ask):
    def drip(_, handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass

    model.behave = drip
    began = time.monotonic()
    with pytest.raises(EndpointError, match="no reply within"):
        ask(timeout=0.15, retries=0)
    assert time.monotonic() - began < 5


def test_a_reply_without_end_is_cut_off(model, ask):
    def pour(_, handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(10**9))
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b" " * 100_000)
        except OSError:
            pass

    model.behave = pour
    with pytest.raises(EndpointError) as caught:
        ask(retries=0)
    assert caught.value.code == "E_REPLY_TOO_LARGE"


def message(content):
    return {"choices": [{"message": content, "finish_reason": "stop"}]}


MALFORMED = [
    (b"", "E_REPLY_JSON"),
    (b"<html>busy</html>", "E_REPLY_JSON"),
    (b'{"choices": [{"message": {"content": "Re', "E_REPLY_JSON"),
    (b"[" * 100_000, "E_REPLY_JSON"),
    (b"\xff\xfe\x00", "E_REPLY_JSON"),
    (b"[]", "E_REPLY_CHOICES"),
    (b"null", "E_REPLY_CHOICES"),
    ({}, "E_REPLY_CHOICES"),
    ({"choices": []}, "E_REPLY_CHOICES"),
    ({"choices": {"0": "Red."}}, "E_REPLY_CHOICES"),
    ({"error": {"message": "busy"}}, "E_REPLY_CHOICES"),
    ({"choices": ["Red."]}, "E_REPLY_TYPE"),
    ({"choices": [{"text": "Red."}]}, "E_REPLY_TYPE"),
    (message({"content": 3}), "E_REPLY_TYPE"),
    (message({"content": ["Red."]}), "E_REPLY_TYPE"),
    (message({"content": "half \ud800 of it"}), "E_REPLY_TYPE"),
    (message({"content": ""}), "E_REPLY_EMPTY"),
    (message({"content": " \n"}), "E_REPLY_EMPTY"),
    (message({"content": None}), "E_REPLY_EMPTY"),
    (message({}), "E_REPLY_EMPTY"),
]


@pytest.mark.parametrize(("answer", "code"), MALFORMED)
def test_a_malformed_reply_is_tried_again_and_then_named(model, ask, answer, code):
    model.behave = in_turn(answer)
    with pytest.raises(EndpointError) as caught:
        ask(retries=1)
    assert caught.value.code == code
    assert len(model.asked) == 2
    model.behave = lambda asked, _: answer if asked.number < 3 else "Red."
    assert ask().text == "Red."


def test_tokens_of_spoilt_attempts_are_counted(model, ask, body):
    model.behave = in_turn(body("", tokens=(100, 0)), body("Red.", tokens=(101, 3)))
    reply = ask()
    assert (reply.prompt_tokens, reply.completion_tokens) == (201, 3)


@pytest.mark.parametrize("last", [None, 400, 401])
def test_a_failure_says_what_it_cost(model, ask, body, last):
    model.behave = lambda asked, _: last if last and asked.number == 2 else body("", tokens=(100, 7))
    with pytest.raises(EndpointError) as caught:
        ask(retries=2)
    assert caught.value.tokens == ((200, 14) if last else (300, 21))


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "many"}, {"prompt_tokens": -1}, {"prompt_tokens": True}])
def test_usage_that_makes_no_sense_counts_as_none(model, ask, body, usage):
    model.behave = in_turn(body("Red.") | {"usage": usage})
    assert (ask().prompt_tokens, ask().completion_tokens) == (0, 0)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_other_refusals_are_not_tried_again(model, ask, status):
    model.behave = in_turn(status)
    with pytest.raises(EndpointError, match=f"status {status}") as caught:
        ask()
    assert not isinstance(caught.value, EndpointRefusedError)
    assert len(model.asked) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_it_all(model, ask, status):
    model.behave = in_turn(status)
    with pytest.raises(EndpointRefusedError, match="check --endpoint, --model and the key"):
        ask()
    assert len(model.asked) == 1


def test_redirects_are_not_followed(model, ask):
    model.behave = in_turn((307, {"Location": "http://127.0.0.1:9/elsewhere"}))
    with pytest.raises(EndpointRefusedError, match="status 307"):
        ask()


def test_thoughts_are_taken_off_and_refusals_are_told_apart(model, ask, body):
    model.behave = in_turn("<think>It looks\nred.</think>\n\nRed.")
    assert ask().text == "Red."
    model.behave = lambda *_: body("Half a", finish="length")
    assert ask().finish == "length"
    model.behave = lambda *_: body("", finish="content_filter")
    assert ask().finish == "refused"
    model.behave = lambda *_: message({"content": None, "refusal": "No."})
    assert (ask().finish, ask().text) == ("refused", "No.")


def test_a_stop_ends_the_waiting_between_attempts(model, ask):
    model.behave = in_turn(503)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError):
        ask(stop=stop, backoff=30.0)
    assert time.monotonic() - began < 10


def test_a_bad_picture_is_an_image_error_and_asks_nothing(model):
    with Endpoint(model.url, "m") as engine, pytest.raises(ImageError):
        engine.ask(Chat(Picture("a.png", "0", b"not a picture", 900), ("What?",)), Sampling(), _going())
    assert not model.asked


def test_the_key_is_sent_and_never_said(model, ask, monkeypatch, caplog):
    monkeypatch.setenv("SOME_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    model.behave = lambda asked, _: f"I was given {asked.authorization}."
    reply = ask(api_key_env="SOME_KEY")
    assert model.asked[0].authorization == f"Bearer {KEY}"
    assert reply.text == "I was given Bearer ***."
    model.behave = lambda asked, _: 401 if asked.number == 1 else {"error": {"message": KEY}}
    for _ in range(2):
        with pytest.raises(EndpointError) as caught:
            ask(api_key_env="SOME_KEY", retries=0)
        assert KEY not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert KEY not in caplog.text


@pytest.mark.parametrize("key", ["test", "content", "message", "role"])
def test_a_key_that_is_a_word_changes_no_reply(model, ask, monkeypatch, key):
    monkeypatch.setenv("SOME_KEY", key)
    model.behave = in_turn(f"The latest {key}.")
    assert ask(api_key_env="SOME_KEY").text == f"The latest {key}."
    assert model.asked[0].authorization == f"Bearer {key}"


def test_a_key_is_found_however_json_spells_it(model, ask, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    spelled = KEY.replace("s", "\\u0073").encode()
    model.behave = lambda *_: b'{"choices": [{"message": {"content": "It is %s."}}]}' % spelled
    assert ask(api_key_env="SOME_KEY").text == "It is ***."


def test_a_key_in_a_complaint_of_any_form_is_cut_out_whole(model, ask, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)

    def complain(_, handler):
        said = b"<p>" + b" " * 385 + KEY.encode()
        handler.send_response(400)
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said)

    model.behave = complain
    with pytest.raises(EndpointError, match=r"status 400: <p> \*\*\*"):
        ask(api_key_env="SOME_KEY")


def test_a_key_that_is_not_there_is_wrong_use(model, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(UsageError, match="SOME_KEY"):
        Endpoint(model.url, "m", api_key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", f"{KEY}\x01é")
    with pytest.raises(UsageError, match="SOME_KEY") as caught:
        Endpoint(model.url, "m", api_key_env="SOME_KEY")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://h/v1",
        "http://",
        "http://[::1",
        "http://a b/\x01",
        f"https://me:{KEY}@host/v1",
        f"https://host/v1?key={KEY}",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_unquoted(url):
    with pytest.raises(UsageError) as caught:
        Endpoint(url, "m")
    assert KEY not in str(caught.value)
