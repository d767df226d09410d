"""The embedding model, and the folder that it is kept in."""

from cocoa.model.embedding_model import CARD, EmbeddingModel, best_device
from cocoa.model.identity import fingerprint, identity_difference, identity_of

__all__ = ["CARD", "EmbeddingModel", "best_device", "fingerprint", "identity_difference", "identity_of"]
