"""Trainable representations of a density, one in each module; all evaluate their Fourier transform by `slices(k)`."""
