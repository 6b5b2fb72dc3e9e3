"""What the equations of the papers' methods say, in float64 NumPy: the oracle that every kernel is tested against.

One module per method, importing nothing outside this package but NumPy. A base is [...], the fine-tuned models are
[N, ...]; where a method takes a statistic over the whole model, these are its tensors flattened and joined.
Random methods take their masks or draws as arguments. Selective Task Arithmetic, averaging and task arithmetic
have their ``*_literal`` functions beside their exact forms, one package up.
"""
