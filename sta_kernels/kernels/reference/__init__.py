"""The reference: every equation in NumPy, in two forms, importing nothing else of the package.

``*_literal`` functions are what the maths says, in float64: sort, interpolate, threshold. ``*_exact`` functions are
the float32 order of operations, one correctly rounded operation at a time, that every kernel reproduces bit for bit.

Modules, one per family: :mod:`importance` (eq. 10–12, 21, 22), :mod:`sta_merge` (eq. 13–17), :mod:`sta_forget`
(eq. 18–20), :mod:`linear` (averaging, task arithmetic, negation), :mod:`quantile` (positions and ranks),
:mod:`statistics` (ranges, tier-B sums, normalisers), :mod:`order` (keys and order statistics), :mod:`dtypes`
(storage formats) and :mod:`environment` (the floating-point mode that all of it presumes). Equation numbers without
a source are those of arXiv 2411.16139.

A NaN stands for every NaN: which of its payloads an operation returns is left to the processor.
"""
