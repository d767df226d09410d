"""A decoder's process that does what it is told: what no header check would find."""

import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image

from cocoa.errors import ImageError
from cocoa.images import ImageLimits, open_rgb
from cocoa.serving.decode_worker import main


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    match data:
        case b"hang":
            time.sleep(600)
        case b"spin":
            while True:
                pass
        case b"eat":
            # Of memory that is asked for and never written to: this must meet its own limit, not the processor's.
            kept = [bytes(10_000_000)]
            while True:
                kept.append(bytes(10_000_000))
        case b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"abort":
            os.abort()
        case b"tell":
            # What a decoder that has been taken over could see and do.
            raise ImageError("E_IMAGE_TOLD", f"{sorted(os.environ)} {'torch' in sys.modules}")
        case _ if data.startswith(b"hang "):
            Path(data[5:].decode()).touch()
            time.sleep(600)
        case _ if data.endswith(b"slow"):
            time.sleep(0.5)
        case _ if data.startswith(b"write "):
            Path(data[6:].decode()).write_bytes(b"x")
    return open_rgb(data, limits)


if __name__ == "__main__":
    main(sys.argv[1:], decode)
