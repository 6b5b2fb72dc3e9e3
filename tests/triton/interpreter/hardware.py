"""Lets the interpreter run kernels in the form in which they are compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from division_cases import fma
from triton.runtime.interpreter import TensorHandle, interpreter_builder

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.triton import primitives


def as_compiled(monkeypatch: pytest.MonkeyPatch, multiply_add: Callable[[Array, Array, Array], Array] = fma) -> None:
    """Take the hardware's form of every primitive, with a multiply-add that rounds once."""

    def create_fma(x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        return TensorHandle(multiply_add(x.data, y.data, z.data), z.dtype.scalar)

    monkeypatch.setattr(interpreter_builder, "create_fma", create_fma)
    monkeypatch.setattr(primitives, "INTERPRETED", False)
