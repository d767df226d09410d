"""Scoring a model as MMEB does, and safely."""
