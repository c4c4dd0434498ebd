"""Comparison of poses, maps and conformations with the truth. Code that reconstructs or infers must not import it."""
