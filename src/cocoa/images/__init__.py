"""Bytes, path, archive member or PIL picture to RGB: the one decoder, with limits and typed errors."""

from cocoa.images.data_urls import data_url_bytes
from cocoa.images.decoding import NOTES, limits_of, open_rgb, picture_size
from cocoa.images.limits import DEFAULT_LIMITS, ImageLimits
from cocoa.images.sources import ArchivedImage, ImageSource, image_key

__all__ = [
    "DEFAULT_LIMITS",
    "NOTES",
    "ArchivedImage",
    "ImageLimits",
    "ImageSource",
    "data_url_bytes",
    "image_key",
    "limits_of",
    "open_rgb",
    "picture_size",
]
