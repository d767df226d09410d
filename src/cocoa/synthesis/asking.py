"""Conversations about pictures, many at a time; what was replied before is not asked again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from cocoa.images import ImageSource
from cocoa.synthesis.chats import Chat, EndpointError, EndpointRefusedError, Engine, Picture, Reply, StoppedError
from cocoa.synthesis.conversations import Outcome, talk
from cocoa.synthesis.plan import Plan
from cocoa.synthesis.shards import Shard
from cocoa.synthesis.suspects import Suspects


class Asking:
    """Asks an engine what a plan wants to know; `find` opens a picture, `on_paid` is told each new reply and loss.

    `suspects` are asked about one at a time, after all others. `unanswered` are pictures that were asked about and got
    no reply, or none yet.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        find: Callable[[str], ImageSource],
        suspects: Suspects,
        on_paid: Callable[[Reply], None],
    ) -> None:
        self.plan, self.engine, self.find, self.suspects, self.on_paid = plan, engine, find, suspects, on_paid
        self.stop = threading.Event()
        self.unanswered: set[str] = set()
        self._is_there = True

    def outcomes(self, shards: list[Shard]) -> Generator[tuple[Shard, Outcome, bool], None, None]:
        """What comes of each picture, as it comes, and whether the engine replied to the last question about it.

        Nothing is left running behind.
        """
        usual = ((shard, name) for shard in shards for name in shard.names if name not in self.suspects)
        alone = [(shard, name) for shard in shards for name in shard.names if name in self.suspects]
        alone.sort(key=lambda item: self.suspects.tries[item[1]])
        running: dict[Future[tuple[Outcome, bool]], Shard] = {}
        # In the order in which they end: what came last decides whether the endpoint replies.
        ended: SimpleQueue[Future[tuple[Outcome, bool]]] = SimpleQueue()
        pool = ThreadPoolExecutor(self.engine.concurrency, thread_name_prefix="synthesis")
        try:
            # A few more than can run, so that no thread waits for this one.
            for todo, most in ((usual, 2 * self.engine.concurrency), (iter(alone), 1)):
                while True:
                    while len(running) < most and (item := next(todo, None)) is not None:
                        future = pool.submit(self._talk, *item)
                        running[future] = item[0]
                        future.add_done_callback(ended.put)
                    if not running:
                        break
                    future = ended.get()
                    shard = running.pop(future)
                    try:
                        outcome, replied = future.result()
                    except StoppedError:
                        continue  # Another has been refused, and its error comes.
                    yield shard, outcome, replied
        finally:
            # What is in flight is paid for: it is waited for and journaled, but nothing new is asked.
            self.stop.set()
            pool.shutdown(cancel_futures=True)
            for shard in shards:
                shard.journal.close()

    def _talk(self, shard: Shard, name: str) -> tuple[Outcome, bool]:
        replied = False
        picture = Picture(name, self.plan.pictures[name], self.find(name), self.plan.max_pixels)

        def ask(turns: tuple[str, ...]) -> Reply:
            nonlocal replied
            chat = Chat(picture, turns, self.plan.prompts.system)
            key = chat.key
            reply = shard.journal.replies.get(key)
            if reply is None:
                replied = False
                self.suspects.check(name)
                self.unanswered.add(name)
                try:
                    reply = self.engine.ask(chat, self.plan.sampling, self.stop)
                except EndpointError as error:
                    if isinstance(error, EndpointRefusedError):
                        self.stop.set()
                    if any(error.tokens):
                        self.on_paid(shard.journal.add_loss(key, error.tokens))
                    # Of several that fail in a row, the endpoint was still there for the first alone.
                    was_there, self._is_there = self._is_there, False
                    if was_there and error.dropped and name in self.suspects:
                        self.suspects.blame(name)
                        self.suspects.check(name)
                    raise
                replied = self._is_there = True
                self.unanswered.discard(name)
                shard.journal.add(key, reply)
                self.on_paid(reply)
            return reply

        return talk(name, self.plan.prompts, ask), replied
