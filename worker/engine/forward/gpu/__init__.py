"""Triton kernels of a decode step. Imported where there is a GPU, as Triton is only there."""
