"""Triton's kernels on a machine without a GPU: interpreted, compiled ahead of time, audited."""

from __future__ import annotations

from sta_kernels.kernels import interpreted

# What is imported for the interpreter cannot be compiled, and the other way round.
collect_ignore = [] if interpreted() else ["interpreter"]
