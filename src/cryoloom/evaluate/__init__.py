"""Comparisons with the truth: poses and maps. Nothing that infers may import this room."""
