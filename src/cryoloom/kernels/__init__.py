"""Fast paths behind the reference's signatures: numba on the CPU, torch on a GPU. `dispatch` picks by the tensors' device."""
