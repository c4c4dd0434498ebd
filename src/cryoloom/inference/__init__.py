"""Inference of what is unknown in each image: poses."""
