"""Any OpenAI-compatible endpoint (vLLM, SGLang, a cloud) as an engine: bounded, patient, and silent about its key."""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from cocoa.errors import UsageError
from cocoa.synthesis.chats import Chat, EndpointError, EndpointRefusedError, Reply, Sampling, StoppedError

_LARGEST_REPLY = 4_000_000
_LONGEST_WAIT = 60.0
_LONGEST_REQUESTED_WAIT = 600.0
_LONGEST_EXCERPT = 200
_SHORTEST_SECRET = 16
"""Characters of a key that is cut out of what a server says; a shorter one may be a word ("test") of any reply."""
_RETRIED = frozenset({408, 409, 425, 429})
# What is wrong with the job and not with one row of it: key, right, path, method, or an address that moved.
_HOPELESS = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405})
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)


class _TryAgainError(EndpointError):
    """A failure that may pass; `wait` is what the server asks for, in seconds."""

    wait: float | None = None


class Endpoint:
    """Asks `POST {url}/chat/completions`, with the picture as a JPEG data URL.

    Timeouts, dropped connections, status 408, 409, 425, 429 and 5xx, and replies that make no sense are tried again up
    to `retries` times, after a wait that doubles from `backoff` seconds, with jitter; a Retry-After (of at most ten
    minutes) is honoured, and by all threads. Other 4xx are not tried again.
    """

    follows_instructions = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 16,
        timeout: float = 120.0,
        retries: int = 5,
        backoff: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing yet.

        Args:
            url: the address up to and without `/chat/completions`, as `http://localhost:8000/v1`.
            model: the name that the endpoint serves.
            api_key_env: the environment variable that holds the key; the key is never logged or written, and one of 16
                characters or more is cut out of what the server says.
            concurrency: the most requests at once.
            timeout: seconds that one request may take.
            retries: attempts after the first.
            backoff: the first wait in seconds.
            clock: seconds that only grow.
        """
        self.model = model
        self.concurrency = concurrency
        self.host, self._url = _address(url)
        if concurrency < 1 or retries < 0 or timeout <= 0 or backoff < 0:
            raise UsageError(
                "E_USAGE_ENDPOINT", "concurrency is 1 or more, timeout above 0, retries and backoff 0 or more"
            )
        self._timeout, self._retries, self._backoff, self._clock = timeout, retries, backoff, clock
        self._key = _key(api_key_env) if api_key_env else ""
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = httpx2.Client(
            headers=headers,
            timeout=timeout,
            limits=limits,
            follow_redirects=False,
            # Reading the certificates takes a tenth of a second, and plain HTTP has no use for them.
            verify=self._url.startswith("https:"),
        )
        self._random = random.Random()
        self._not_before = 0.0

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def check(self, sampling: Sampling) -> None:
        """Raises nothing: which fields there are is the server's to say."""

    def ask(self, chat: Chat, sampling: Sampling, stop: threading.Event) -> Reply:
        """Returns the reply; see `Engine.ask`."""
        messages = _messages(chat)
        spoilt, dropped = (0, 0), False
        for attempt in range(self._retries + 1):
            self._wait_until(self._not_before, stop)
            # Another seed for each attempt: the same one would spoil a reply in the same way.
            body = {
                "model": self.model,
                "messages": messages,
                "temperature": sampling.temperature,
                "max_tokens": sampling.max_tokens,
                "seed": sampling.seed + attempt,
                **sampling.extra,
            }
            content = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
            try:
                text, finish, tokens = self._send(content)
            except EndpointError as error:
                error.tokens = spoilt = (spoilt[0] + error.tokens[0], spoilt[1] + error.tokens[1])
                error.dropped = dropped = dropped or error.dropped
                if not isinstance(error, _TryAgainError):
                    raise
                if attempt == self._retries:
                    times = f", tried {attempt + 1} times" if attempt else ""
                    failure = EndpointError(error.code, error.message + times)
                    failure.tokens, failure.dropped = spoilt, dropped
                    raise failure from error
                if not error.wait:
                    wait = min(_LONGEST_WAIT, self._backoff * 2**attempt)
                    self._wait_until(self._clock() + wait * self._random.uniform(0.5, 1.0), stop)
                else:
                    self._not_before = max(self._not_before, self._clock() + min(error.wait, _LONGEST_REQUESTED_WAIT))
            else:
                return Reply(text, finish, spoilt[0] + tokens[0], spoilt[1] + tokens[1], self.host)
        raise AssertionError("the last attempt returns or raises")

    def _wait_until(self, when: float, stop: threading.Event) -> None:
        if stop.wait(max(0.0, when - self._clock())):
            raise StoppedError

    def _send(self, content: bytes) -> tuple[str, str, tuple[int, int]]:
        """The text, why it ended, and its tokens."""
        # A timeout of the library is one of each read: a server that drips would be waited for without end.
        deadline = self._clock() + self._timeout
        received = bytearray()
        try:
            with self._client.stream("POST", self._url, content=content) as response:
                for piece in response.iter_bytes():
                    received += piece
                    if len(received) > _LARGEST_REPLY:
                        raise _TryAgainError("E_REPLY_TOO_LARGE", f"a reply larger than {_LARGEST_REPLY} bytes")
                    if self._clock() > deadline:
                        raise _TryAgainError("E_ENDPOINT_TIMEOUT", f"no reply within {self._timeout:g} s")
        except httpx2.TimeoutException as error:
            raise _TryAgainError("E_ENDPOINT_TIMEOUT", f"no reply within {self._timeout:g} s") from error
        except httpx2.HTTPError as error:
            what = f"the connection to {self.host} failed ({type(error).__name__})"
            failure = _TryAgainError("E_ENDPOINT_CONNECTION", what)
            failure.dropped = not isinstance(error, httpx2.ConnectError)
            raise failure from error
        reply = received.decode("utf-8", "replace")
        if response.status_code != 200:
            raise self._failure(response.status_code, response.headers.get("Retry-After"), reply)
        text, finish, tokens = _read(reply)
        return self._without_key(text), self._without_key(finish), tokens

    def _without_key(self, said: str) -> str:
        """A server that repeats the key must not get it into a file or a message."""
        return said.replace(self._key, "***") if len(self._key) >= _SHORTEST_SECRET else said

    def _failure(self, status: int, retry_after: str | None, reply: str) -> EndpointError:
        said = " ".join(self._without_key(_complaint(reply)).split())
        what = f"{self.host} answered status {status}" + (f": {said[:_LONGEST_EXCERPT]}" if said else "")
        if status in _HOPELESS:
            what += "; check --endpoint, --model and the key"
            return EndpointRefusedError("E_ENDPOINT_REFUSED", what)
        if status in _RETRIED or status >= 500:
            failure = _TryAgainError("E_ENDPOINT_BUSY" if status == 429 else "E_ENDPOINT_STATUS", what)
            failure.wait = _seconds(retry_after)
            return failure
        return EndpointError("E_ENDPOINT_STATUS", what)


def _address(url: str) -> tuple[str, str]:
    """The host (with port) and the full address to post to."""
    try:
        httpx2.URL(url)
        parts = urlsplit(url)
        host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
    except (ValueError, httpx2.InvalidURL):
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("E_USAGE_ENDPOINT", "the endpoint must look like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        # Not quoted: what stands there may be a secret.
        what = "the endpoint must be an address alone; name the variable with the key by --api-key-env"
        raise UsageError("E_USAGE_ENDPOINT", what)
    return host, url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError("E_USAGE_KEY", f"the environment variable {variable} with the key is not set")
    if not key.isascii() or not key.isprintable():
        raise UsageError("E_USAGE_KEY", f"the environment variable {variable} holds no key: not plain ASCII")
    return key


def _messages(chat: Chat) -> list[dict[str, Any]]:
    """The conversation as the interface has it."""
    first: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": chat.picture.data_url}}]
    if chat.turns[0]:
        first.append({"type": "text", "text": chat.turns[0]})
    messages: list[dict[str, Any]] = [{"role": "system", "content": chat.system}] if chat.system else []
    messages.append({"role": "user", "content": first})
    for number, turn in enumerate(chat.turns[1:], 1):
        messages.append({"role": "assistant" if number % 2 else "user", "content": turn})
    return messages


def _read(reply: str) -> tuple[str, str, tuple[int, int]]:
    """The text, why it ended and its tokens, from a reply that may be anything."""
    try:
        content = json.loads(reply)
    except (ValueError, RecursionError) as error:
        raise _TryAgainError("E_REPLY_JSON", "a reply that is not JSON") from error
    tokens = _tokens(content)

    def spoilt(code: str, what: str) -> _TryAgainError:
        error = _TryAgainError(code, what)
        error.tokens = tokens
        return error

    choices = content.get("choices") if isinstance(content, dict) else None
    if not isinstance(choices, list) or not choices:
        raise spoilt("E_REPLY_CHOICES", "a reply without choices")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        raise spoilt("E_REPLY_TYPE", "a reply without a message")
    text, finish = message.get("content"), choices[0].get("finish_reason")
    if finish == "content_filter" or (message.get("refusal") and not text):
        return str(message.get("refusal") or ""), "refused", tokens
    if not isinstance(text, str | None):
        raise spoilt("E_REPLY_TYPE", f"a reply whose content is no text but {type(text).__name__}")
    text = _THOUGHT.sub("", text or "").strip()
    if not text:
        raise spoilt("E_REPLY_EMPTY", "an empty reply")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise spoilt("E_REPLY_TYPE", "a reply with half of a character") from error
    return text, finish if isinstance(finish, str) else "stop", tokens


def _tokens(content: Any) -> tuple[int, int]:
    usage = content.get("usage") if isinstance(content, dict) else None
    counts = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (count if type(count) is int and 0 <= count < 10**9 else 0 for count in counts)
    return prompt, completion


def _complaint(reply: str) -> str:
    """What a server says is wrong, in the interface's shape or in its own words."""
    try:
        error = json.loads(reply)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return reply


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After asks for: seconds, or the time until a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    return seconds if 0 <= seconds < float("inf") else 0.0 if seconds < 0 else None
