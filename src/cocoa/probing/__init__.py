"""Probes: measures of a model's vectors that explain its scores."""

from cocoa.probing.probe import probe

__all__ = ["probe"]
