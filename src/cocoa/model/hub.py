"""Model folders on the Hugging Face hub: fetched as they were written, and pushed as they are."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub

from cocoa.errors import ModelError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "README.md"]
"""What a model folder is made of; code and pickles are not even fetched."""


def local_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """Returns the folder of a model: the path itself if there is a folder, or else a copy of the hub's model.

    Raises `E_MODEL_MISSING` for what is neither a folder nor `OWNER/NAME`, or is not on the hub or cannot be reached.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise ModelError("E_MODEL_MISSING", "no such model folder", where=str(name))
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_PATTERNS))
    except Exception as error:  # The hub's client raises its own, its HTTP library's and the system's.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            "E_MODEL_MISSING", f"no such folder, and not to be had from the hub: {reason}", where=str(name)
        ) from error


def push(folder: Path, repo: str, *, public: bool = False) -> str:
    """Returns the address of the hub's model after uploading a folder there; it is made, private, if there is none.

    Raises `E_MODEL_HUB` if the hub refuses or cannot be reached.
    """
    if not _ID.fullmatch(repo):
        raise ModelError("E_MODEL_HUB", f"a model on the hub is called OWNER/NAME, not {repo!r}")
    hub = huggingface_hub.HfApi()
    try:
        hub.create_repo(repo, repo_type="model", private=not public, exist_ok=True)
        hub.upload_folder(folder_path=folder, repo_id=repo, repo_type="model", commit_message="Upload model folder")
    except Exception as error:  # As above.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError("E_MODEL_HUB", f"could not be pushed: {reason}", where=repo) from error
    return f"https://huggingface.co/{repo}"
