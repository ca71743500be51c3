"""Numba kernels for a CPU."""
