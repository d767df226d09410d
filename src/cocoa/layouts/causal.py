"""Causal: each token looks at itself and at what stands before it; how the backbone was made."""

from cocoa.layouts.layout import Layout, everything

CAUSAL = Layout("causal", everything(), causal=True)
