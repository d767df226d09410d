"""The HTTP API and the search page over a model and an index."""
