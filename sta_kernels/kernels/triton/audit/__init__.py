"""What the kernels compile to, proved without a GPU: machine code for named chips, rules on it, a model of its time."""
