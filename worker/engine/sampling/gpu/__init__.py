"""Triton kernels of a draw. Imported where there is a GPU, as Triton is only there."""
