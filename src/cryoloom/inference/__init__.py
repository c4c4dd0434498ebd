"""Inference of the unknowns of each image: poses and conformations."""
