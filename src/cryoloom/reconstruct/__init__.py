"""Recipes that turn particles into maps, and the runs in which they are carried out."""
