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


class Asking:
    """Asks an engine what a plan wants to know; `find` opens a picture, `on_paid` is told each new reply and loss."""

    def __init__(
        self, plan: Plan, engine: Engine, find: Callable[[str], ImageSource], on_paid: Callable[[Reply], None]
    ) -> None:
        self.plan, self.engine, self.find, self.on_paid = plan, engine, find, on_paid
        self.stop = threading.Event()

    def outcomes(self, shards: list[Shard]) -> Generator[tuple[Shard, Outcome, bool], None, None]:
        """What comes of each picture, as it comes, and whether the engine replied to the last question about it.

        Nothing is left running behind.
        """
        todo = ((shard, name) for shard in shards for name in shard.names)
        running: dict[Future[tuple[Outcome, bool]], Shard] = {}
        # In the order in which they end: what came last decides whether the endpoint replies.
        ended: SimpleQueue[Future[tuple[Outcome, bool]]] = SimpleQueue()
        pool = ThreadPoolExecutor(self.engine.concurrency, thread_name_prefix="synthesis")
        try:
            while True:
                # A few more than can run, so that no thread waits for this one.
                while len(running) < 2 * self.engine.concurrency and (item := next(todo, None)) is not None:
                    future = pool.submit(self._talk, *item)
                    running[future] = item[0]
                    future.add_done_callback(ended.put)
                if not running:
                    return
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
                try:
                    reply = self.engine.ask(chat, self.plan.sampling, self.stop)
                except EndpointError as error:
                    if isinstance(error, EndpointRefusedError):
                        self.stop.set()
                    if any(error.tokens):
                        self.on_paid(shard.journal.add_loss(key, error.tokens))
                    raise
                replied = True
                shard.journal.add(key, reply)
                self.on_paid(reply)
            return reply

        return talk(name, self.plan.prompts, ask), replied
