"""Opens pictures: the one way from a source to RGB."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext
from dataclasses import replace

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from cocoa.errors import ImageError
from cocoa.images.colours import to_rgb
from cocoa.images.headers import Header, kind_of, read_header
from cocoa.images.limits import DEFAULT_LIMITS, Fail, ImageLimits, check_size
from cocoa.images.sources import ImageSource, lock_of, name_of, orientation, read_bytes

NOTES = ("first_frame", "trailing_bytes", "profile_broken", "profile_of_other_colours")
"""What may have been passed over in a picture: frames, bytes behind the end, a profile."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_rgb(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS, where: str = "") -> Image.Image:
    """Returns the picture in mode RGB as a viewer shows it: upright, in sRGB, over white, first frame, 8 bits.

    Its `info["notes"]` is a tuple of what was passed over, if anything: `first_frame` (of several), `trailing_bytes`,
    `profile_broken`, `profile_of_other_colours`.

    Args:
        source: the picture.
        limits: what it may cost; checked on the header, before decoding.
        where: the file and row that mention the picture, for the error.

    Raises:
        ImageError: with a code `E_IMAGE_*` and a message that names the picture.
    """
    name = name_of(source)

    def fail(code: str, what: str) -> ImageError:
        return ImageError(code, f"image {name} {what}", where=where)

    notes: list[str] = []
    if isinstance(source, Image.Image):
        image = source
        kind = "JPEG" if image.format == "MPO" else image.format
        if kind is not None and kind not in limits.formats:
            raise fail("E_IMAGE_FORMAT", f"is {kind}; convert it to one of {', '.join(limits.formats)}")
    else:
        data = read_bytes(source, limits, fail)
        image, header = _open(data, limits, fail)
        if header.num_frames > 1:
            notes.append("first_frame")
        if header.end is not None and header.end < len(data):
            notes.append("trailing_bytes")
    check_size(image.size, limits, fail)
    try:
        # TIFF is turned upright by Pillow itself here, so the orientation is read after this line, not before.
        with lock_of(image) if image is source else nullcontext():
            image.load()
    except MemoryError as error:
        raise fail("E_IMAGE_TOO_LARGE", "does not fit in memory") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged data.
        raise fail("E_IMAGE_TRUNCATED", "is cut short or damaged; get the file again") from error
    turn = _TURNS.get(orientation(image))
    try:
        rgb, passed_over = to_rgb(image)
    except MemoryError as error:
        raise fail("E_IMAGE_TOO_LARGE", "does not fit in memory") from error
    except (ValueError, OSError) as error:
        raise fail("E_IMAGE_FORMAT", f"has {image.mode} colours, which are not read; save it as RGB") from error
    # What is upright and sRGB already must not carry a note that would turn or tint it again.
    rgb.info.clear()
    shown = rgb if turn is None else rgb.transpose(turn)
    if notes or passed_over:
        shown.info["notes"] = (*notes, *passed_over)
    return shown


def limits_of(source: ImageSource) -> ImageLimits:
    """Returns the usual limits of a source; pixels that are in memory already have cost what they cost."""
    is_decoded = isinstance(source, Image.Image) and not isinstance(source, ImageFile)
    return replace(DEFAULT_LIMITS, max_pixels=sys.maxsize) if is_decoded else DEFAULT_LIMITS


def picture_size(source: ImageSource, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Returns (width, height) of a picture as `open_rgb` would give it, from its header; raises as `open_rgb` does."""

    def fail(code: str, what: str) -> ImageError:
        return ImageError(code, f"image {name_of(source)} {what}")

    if isinstance(source, Image.Image):
        image = source
    else:
        image, header = _open(read_bytes(source, limits, fail), limits, fail)
        if image.format == "PNG" and not header.late_notes:
            # Pillow would decode the picture to look for notes behind it, if it may do so again.
            image.info.setdefault("exif", b"")
    check_size(image.size, limits, fail)
    width, height = image.size
    # Pillow gives the size of a TIFF as it will be when upright, that of all others as stored.
    turned = orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"
    return (height, width) if turned else (width, height)


def _open(data: bytes, limits: ImageLimits, fail: Fail) -> tuple[Image.Image, Header]:
    """The picture with its header read, held against the limits, and no pixel decoded."""
    offered = ", ".join(limits.formats)
    if not data:
        raise fail("E_IMAGE_OPEN", "is empty")
    kind = kind_of(data)
    if kind is None:
        raise fail("E_IMAGE_OPEN", f"is not a picture in one of {offered}")
    if kind not in limits.formats:
        raise fail("E_IMAGE_FORMAT", f"is {kind}; convert it to one of {offered}")
    header = read_header(data, kind, limits, fail)
    if kind == "WEBP" and (header.end or 0) > len(data):
        raise fail("E_IMAGE_TRUNCATED", "is cut short; get the file again")
    try:
        return Image.open(io.BytesIO(data), formats=(kind,)), header
    except MemoryError as error:
        raise fail("E_IMAGE_TOO_LARGE", "does not fit in memory") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise fail("E_IMAGE_TOO_LARGE", f"has more than {limits.max_pixels} pixels; make it smaller") from error
    except UnidentifiedImageError as error:
        raise fail("E_IMAGE_OPEN", f"has a damaged {kind} header, or is a {kind} of a rare kind") from error
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged data.
        raise fail("E_IMAGE_OPEN", "has a damaged header") from error
