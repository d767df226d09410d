"""Bidirectional: every token looks at every token (warm-up, contrastive, embedding)."""

from cocoa.layouts.layout import Layout, everything

BIDIRECTIONAL = Layout("bidirectional", everything())
