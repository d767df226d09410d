"""Training: the step, the loop over stages, the data ahead of it."""
