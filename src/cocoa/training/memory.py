"""How much memory this process has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def most_memory() -> int:
    """Returns the most bytes that this process has held since its program began."""
    status = Path("/proc/self/status")
    if status.exists():
        # What `getrusage` says of a child also counts what its parent held when it was started.
        lines = (line.split() for line in status.read_text().splitlines())
        return next(1024 * int(line[1]) for line in lines if line[0] == "VmHWM:")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
