"""A reference to a picture, as clients write them, to the bytes of a file."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace

from cocoa.sample import Sample
from cocoa.serving.problems import RequestError
from cocoa.serving.settings import ServeSettings


class Sources:
    """Turns data URLs and base64 into bytes; files and URLs only where the settings name roots and hosts."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings

    def resolve(self, sample: Sample) -> Sample:
        """Returns the sample with the bytes of its pictures; raises `E_REQUEST_IMAGE` or `E_LIMIT_IMAGE`."""
        return replace(sample, images=tuple(self._bytes(str(image), sample.where) for image in sample.images))

    def _bytes(self, reference: str, where: str) -> bytes:
        scheme = reference[:8].partition(":")[0].lower() if ":" in reference[:8] else ""
        if scheme == "data":
            head, comma, reference = reference.partition(",")
            if not comma or not head.lower().endswith(";base64"):
                raise RequestError(
                    "E_REQUEST_IMAGE", "a data URL of a picture is data:image/...;base64,...", where=where
                )
        elif scheme:
            raise RequestError("E_REQUEST_IMAGE", "this server takes pictures as data URLs or base64 only", where=where)
        # Not even the text is decoded that could be too long.
        most = self.settings.limits.max_image_bytes
        if len(reference) > most * 4 // 3 + 4:
            raise RequestError(
                "E_LIMIT_IMAGE", f"a picture has more than {most} bytes (max_image_bytes)", where=where, status=413
            )
        try:
            return base64.b64decode(reference, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError("E_REQUEST_IMAGE", "the picture is not base64", where=where) from None
