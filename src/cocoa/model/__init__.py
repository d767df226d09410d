"""The embedding model, and the folder that it is kept in."""

from cocoa.model.card import CARD, Card, library_versions
from cocoa.model.embedding_model import EmbeddingModel, best_device
from cocoa.model.hub import local_folder, push
from cocoa.model.identity import fingerprint, identity_difference, identity_of
from cocoa.model.reading import read_model, stored_dtype

__all__ = [
    "CARD",
    "Card",
    "EmbeddingModel",
    "best_device",
    "fingerprint",
    "identity_difference",
    "identity_of",
    "library_versions",
    "local_folder",
    "push",
    "read_model",
    "stored_dtype",
]
