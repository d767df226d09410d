"""A model folder that several tests of this part share."""

from __future__ import annotations

import shutil

import pytest

from cocoa.model import EmbeddingModel


@pytest.fixture(scope="session")
def saved(tiny, tmp_path_factory):
    """A tiny model's folder, not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    EmbeddingModel(tiny(), max_tokens=128).save(folder, receipt={"recipe": {"seed": 3, "backbone": {"name": "nano"}}})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(saved, tmp_path / "model")
