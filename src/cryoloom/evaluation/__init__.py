"""Comparisons with the truth: poses, maps and conformations. Nothing that infers may import this room."""
