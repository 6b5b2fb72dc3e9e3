"""sta_kernels inside other tools."""
