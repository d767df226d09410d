"""Planning: tokens, memory, step time and hours of a recipe, before any weight is loaded."""
