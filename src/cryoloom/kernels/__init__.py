"""Fast paths behind the reference's signatures: numba on CPUs, torch on GPUs; `dispatch` picks by device."""
