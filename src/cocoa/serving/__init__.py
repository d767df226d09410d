"""A model behind HTTP, in the shapes that embedding clients already speak."""
