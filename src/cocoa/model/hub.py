"""Where a model lies: in a folder, in this package, or on the Hugging Face hub, to which folders are pushed."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import huggingface_hub

from cocoa.errors import ModelError
from cocoa.model.card import unfinished

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "README.md"]
"""What a model folder is made of; code and pickles are not even fetched."""
NANO_EMBEDDER = "nano-embedder"
"""The small embedding model that ships with the package; recipes/nano-embedder.yaml makes it."""


def is_hub_id(name: str) -> bool:
    """Returns whether a name can be that of a model on the hub, `OWNER/NAME`."""
    return _ID.fullmatch(name) is not None


def local_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """Returns the folder of a model: a path that is one, that of `nano-embedder` (ships here), or a copy of the hub's.

    `OWNER/NAME@REVISION` is the same as `revision` (a commit, tag or branch of the hub). Raises `E_MODEL_MISSING` for
    what is none of these and not `OWNER/NAME`, or is not on the hub or cannot be reached.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if name == NANO_EMBEDDER and revision is None:
        return Path(str(files("cocoa") / "assets" / NANO_EMBEDDER))
    wanted, at, pinned = str(name).partition("@")
    if not isinstance(name, str) or not is_hub_id(wanted) or (at and (not pinned or revision is not None)):
        hint = unfinished(path.parent) if path.name == "model" else ""
        raise ModelError("E_MODEL_MISSING", f"no such model folder{hint}", where=str(name))
    try:
        found = huggingface_hub.snapshot_download(wanted, revision=pinned or revision, allow_patterns=_PATTERNS)
        return Path(found)
    except Exception as error:  # The hub's client raises its own, its HTTP library's and the system's.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            "E_MODEL_MISSING", f"no such folder, and not to be had from the hub: {reason}", where=str(name)
        ) from error


def push(folder: Path, repo: str, *, public: bool = False) -> str:
    """Returns the address of the hub's model after uploading a folder there; it is made, private, if there is none.

    Raises `E_MODEL_HUB` if the hub refuses or cannot be reached.
    """
    if not is_hub_id(repo):
        raise ModelError("E_MODEL_HUB", f"a model on the hub is called OWNER/NAME, not {repo!r}")
    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repo, repo_type="model", private=not public, exist_ok=True)
        hub.upload_folder(folder_path=folder, repo_id=repo, repo_type="model", commit_message="Upload model folder")
    except Exception as error:  # As above.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError("E_MODEL_HUB", f"could not be pushed: {reason}", where=repo) from error
    return f"https://huggingface.co/{repo}"
