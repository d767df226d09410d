"""Places where a test may kill the process, so that "killed anywhere, nothing lost" can be shown place by place.

`COCOA_FAILPOINT=name:3` kills this process, as the kernel would, when it comes to the place `name` for the third time.
Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal

_WRITES = (
    "file-written",
    "file-synced",
    "file-renamed",
    "folder-filled",
    "folder-synced",
    "folder-ready",
    "folder-renamed",
)
FAILPOINTS = (*_WRITES, "folder-doomed", "folder-removed", "checkpoint-kept")
"""Every place of training, each before or after a write, sync, rename or removal."""
EMBEDDING_FAILPOINTS = (*_WRITES, "shard-claimed", "shard-embedded", "shard-committed")
"""Every place of an embedding job."""
INDEX_FAILPOINTS = (*_WRITES, "index-begun", "index-changed", "index-synced", "index-acknowledged")
"""Every place of an index."""
STUDY_FAILPOINTS = (*FAILPOINTS, "link-trained", "model-scored", "run-recorded")
"""Every place of a study, those of training among them."""

_passed: dict[str, int] = {}


def failpoint(name: str) -> None:
    """Kills the process here if the environment says so."""
    wanted = os.environ.get("COCOA_FAILPOINT")
    if wanted is None:
        return
    assert name in {*STUDY_FAILPOINTS, *EMBEDDING_FAILPOINTS, *INDEX_FAILPOINTS}, name
    _passed[name] = _passed.get(name, 0) + 1
    if wanted == f"{name}:{_passed[name]}":
        os.kill(os.getpid(), signal.SIGKILL)
