"""Trainable representations of a density, one a file: all answer `slices(k)`."""
