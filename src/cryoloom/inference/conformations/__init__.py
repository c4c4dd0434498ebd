"""Conformation methods; every one of them returns a `LatentPosterior` or a `ClassPosterior`."""
