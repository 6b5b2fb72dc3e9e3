"""Benchmarks of the Triton kernels, for whoever has a GPU: ``python -m benchmarks.gpu``."""
