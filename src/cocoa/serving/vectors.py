"""What comes out of the model: checked before anybody sees it, shortened and packed as clients ask for it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cocoa.errors import ModelError
from cocoa.precision import LENGTH_ERROR, quantized, shortened
from cocoa.serving.problems import RequestError

Packing = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A unit vector float32 [D], the tokens that it took and the pixels of its pictures."""

    vector: NDArray[np.float32]
    num_tokens: int
    num_pixels: int = 0


def checked(vector: NDArray[np.float32], dimensions: int) -> NDArray[np.float32] | ModelError:
    """Returns the vector, or what is wrong with it: length, a number that is not finite, a norm that is not 1."""
    if vector.shape != (dimensions,):
        return ModelError("E_MODEL_OUTPUT", f"vector of shape {vector.shape}, not ({dimensions},)")
    if not abs(float(np.linalg.norm(vector)) - 1) <= LENGTH_ERROR:  # Not a number is not within anything.
        return ModelError("E_MODEL_OUTPUT", "vector is not finite or not of unit length")
    return vector


def first_of(item: Embedded, dimensions: int) -> Embedded:
    """Returns the first numbers of a vector, of unit length again; raises `E_LIMIT_DIMENSIONS` if none is left."""
    vector = shortened(item.vector[None], dimensions)[0]
    if not vector.any():
        raise RequestError("E_LIMIT_DIMENSIONS", "nothing is left of a vector in so few dimensions", where="dimensions")
    return replace(item, vector=vector)


def packed(item: Embedded, packing: Packing) -> Any:
    """Returns a vector as JSON can hold it; `int8` and `ubinary` as `cocoa.precision.quantized` makes them.

    `base64` is of little-endian float32, `uint8` is `int8` and 128 more, `binary` is `ubinary` and 128 less.
    """
    vectors = item.vector[None]
    match packing:
        case "float":
            return item.vector.tolist()
        case "base64":
            return base64.b64encode(item.vector.astype("<f4").tobytes()).decode()
        case "int8" | "uint8":
            return (quantized(vectors, "int8")[0].astype(int) + (128 if packing == "uint8" else 0)).tolist()
        case "binary" | "ubinary":
            return (quantized(vectors, "binary")[0].astype(int) - (128 if packing == "binary" else 0)).tolist()
