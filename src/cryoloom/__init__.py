"""cryoloom: from a stack of particle images to poses, a gold-standard density map and an honest verdict."""

__version__ = "0.1.0"
