"""Whether a table has the columns of MMEB's sets, seen before any row is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cocoa.errors import DataError

Kind = Literal["text", "texts", "image", "images"]

_WANTED: dict[Kind, str] = {
    "text": "strings",
    "texts": "lists of strings, or strings",
    "image": "strings, or records with bytes and path",
    "images": "lists of strings or of records with bytes and path",
}
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_fixed_size_list)


def check_columns(path: Path, columns: Mapping[str, Kind], optional: Sequence[str] = ()) -> None:
    """Returns if a parquet file has the columns in the right types; a row of json says itself what it has.

    Raises:
        DataError: E_DATA_COLUMN for all that is missing, E_DATA_TYPE for all that has a wrong type, E_DATA_READ for a
            file that is not parquet.
    """
    if path.suffix != ".parquet":
        return
    try:
        schema = pq.read_schema(path)
        names = schema.names
    except (OSError, pa.ArrowException) as error:
        raise DataError("E_DATA_READ", "the parquet file cannot be read", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("E_DATA_READ", "the name of a column is not UTF-8", where=str(path)) from error
    missing = [name for name in columns if name not in names and name not in optional]
    if missing:
        message = f"missing columns: {', '.join(missing)}; present: {', '.join(names) or 'none'}"
        raise DataError("E_DATA_COLUMN", message, where=str(path))
    wrong = [
        f"column {name} has {schema.field(name).type}, expected {_WANTED[kind]}"
        for name, kind in columns.items()
        if name in names and not _fits(schema.field(name).type, kind)
    ]
    if wrong:
        raise DataError("E_DATA_TYPE", "; ".join(wrong), where=str(path))


def _fits(kind: pa.DataType, wanted: Kind) -> bool:
    if pa.types.is_null(kind):  # Every cell is empty.
        return True
    if pa.types.is_dictionary(kind):
        return _fits(kind.value_type, wanted)
    if any(is_one(kind) for is_one in _LISTS):
        return wanted in ("texts", "images") and _fits(kind.value_type, "text" if wanted == "texts" else "image")
    if pa.types.is_struct(kind):
        return wanted in ("image", "images") and {field.name for field in kind} >= {"bytes", "path"}
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return wanted in ("image", "images")
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
