"""What people send by mistake or on purpose: one table, so that library, job and server are held to the same codes.

`BAD_INPUTS` lists the cases, `of_kind("image")` those of a kind. What `make(folder)` returns depends on the kind:

* `image`: the bytes of a file;
* `reference`: what stands where a picture is named: a path, or something that is none;
* `row`: a path as a table in `folder` names it, relative to that folder;
* `geometry`: the bytes of a picture of an odd shape;
* `text`: an item for `Embedder.encode`, `{"text": ...}` with "images" where pictures come with it;
* `json`: the body of a `POST /v1/embeddings`, bytes;
* `table`: the path of a parquet or jsonl file in `folder`.

A case with a `code` must be refused with it; one without must be accepted, and equal what `same_as(folder)` gives where
there is one. The same picture as `make` gives, in a form that nobody can read wrongly, is what `same_as` returns.
"""

from __future__ import annotations

from bad_input import BadInput, Kind
from bad_pictures import GEOMETRY, IMAGES, REFERENCES
from bad_requests import BODIES, TEXTS
from bad_tables import TABLES

BAD_INPUTS: tuple[BadInput, ...] = (*IMAGES, *REFERENCES, *GEOMETRY, *TEXTS, *BODIES, *TABLES)


def of_kind(*kinds: Kind) -> list[BadInput]:
    """Returns the cases of these kinds, in their order."""
    return [case for case in BAD_INPUTS if case.kind in kinds]
