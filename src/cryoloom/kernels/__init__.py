"""Fast versions of the image model in `physics`: numba on CPUs, torch on GPUs; `dispatch` picks by device."""
