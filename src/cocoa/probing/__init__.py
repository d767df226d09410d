"""Probes: measures of a model's vectors that explain its scores."""

from cocoa.probing.probe import Probes, probe

__all__ = ["Probes", "probe"]
