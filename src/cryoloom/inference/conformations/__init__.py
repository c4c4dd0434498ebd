"""Conformation methods; each returns a `LatentPosterior` or a `ClassPosterior`."""
