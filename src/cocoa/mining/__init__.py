"""Hard negatives for training tables, found with one's own model."""

from cocoa.mining.job import Pool, Summary, mine
from cocoa.mining.window import Draw, Window

__all__ = ["Draw", "Pool", "Summary", "Window", "mine"]
