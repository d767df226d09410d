"""The bytes inside a `data:` URL, where somebody says that one is meant."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import unquote_to_bytes

from cocoa.errors import ImageError
from cocoa.images.limits import DEFAULT_LIMITS, ImageLimits

_LONGEST_HEAD = 200
_WHITESPACE = b" \t\r\n\f"
_TO_PLAIN_ALPHABET = bytes.maketrans(b"-_", b"+/")


def data_url_bytes(url: str, limits: ImageLimits = DEFAULT_LIMITS, where: str = "") -> bytes:
    """Returns the bytes of `data:image/...;base64,...`; what kind of picture they are is for the decoder to say.

    As in browsers, whitespace, percent signs, the alphabet for URLs and missing padding are read; the media type may
    be wrong, but must be that of a picture, or none.

    Raises:
        ImageError: E_IMAGE_URL for what is no such URL, E_IMAGE_FORMAT for another media type, E_IMAGE_TOO_LARGE for
            more than `limits.max_bytes`, found out before anything is decoded.
    """

    def fail(code: str, what: str) -> ImageError:
        return ImageError(code, f"the data URL {what}", where=where)

    head, comma, _ = url[: _LONGEST_HEAD + 1].partition(",")
    if not comma or head[:5].lower() != "data:":
        raise fail("E_IMAGE_URL", "is not of the form data:image/png;base64,...")
    media_type, *parameters = (part.strip().lower() for part in head[5:].split(";"))
    if media_type and not media_type.startswith("image/") and media_type != "application/octet-stream":
        raise fail("E_IMAGE_FORMAT", "is of a media type that is not a picture's")
    if "base64" not in parameters:
        raise fail("E_IMAGE_URL", "is not base64; write data:image/png;base64,...")
    # Three letters of a percent escape are one byte, the most that a letter of base64 can take beside whitespace.
    too_large = f"holds more than {limits.max_bytes} bytes; make the picture smaller"
    num_letters = len(url) - len(head) - 1
    if num_letters > 3 * (limits.max_bytes * 4 // 3 + 4):
        raise fail("E_IMAGE_TOO_LARGE", too_large)
    try:
        letters = url[len(head) + 1 :].encode("ascii")
    except UnicodeEncodeError as error:
        raise fail("E_IMAGE_URL", "holds letters that are not base64") from error
    if b"%" in letters:
        letters = unquote_to_bytes(letters)
    letters = letters.translate(_TO_PLAIN_ALPHABET, _WHITESPACE).rstrip(b"=")
    if len(letters) * 3 // 4 > limits.max_bytes:
        raise fail("E_IMAGE_TOO_LARGE", too_large)
    try:
        return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except binascii.Error as error:
        raise fail("E_IMAGE_URL", "holds letters that are not base64, or is cut short") from error
