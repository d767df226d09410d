"""What a study does beside training (drawing, counting, scoring) is left at once on SIGTERM, without a trace."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from cocoa.errors import TrainingStoppedError

STOPPED = "asked to stop; the same command goes on"


class _Ended(BaseException):
    """SIGTERM; no error, so that nothing on the way takes it for a bad row."""


@contextmanager
def leaving(where: Path, said: str = STOPPED) -> Iterator[None]:
    """Leaves what runs inside when SIGTERM comes, as an error would, and raises `TrainingStoppedError`, which says so.

    What is half written goes, as on any error; a second SIGTERM ends the process. A signal that somebody else handles
    or ignores is left to them, and outside the main thread none arrives.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    ended = False

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Ended

    try:
        try:
            signal.signal(signal.SIGTERM, end)
            yield
            if ended:  # Where Python lets no error out: in a finaliser.
                raise _Ended
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    except _Ended:
        raise TrainingStoppedError("E_TRAINING_STOPPED", said, where=str(where)) from None
