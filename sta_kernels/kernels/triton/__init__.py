"""Triton kernels: the same operations and the same bits as the native core, on a GPU or in Triton's interpreter."""
