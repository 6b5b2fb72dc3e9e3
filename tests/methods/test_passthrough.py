"""Passthrough copies bits, or multiplies once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sta_kernels import methods
from sta_kernels.errors import InputError
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Operands, Place

VALUES = np.array([0.0, -0.0, 1.5, -3.25, 1e-40, 3e38, 0.1], np.float64)


def passed(values: np.ndarray[Any, Any], backend: str, out_dtype: Any = None, **parameters: Any) -> Any:
    method = methods.get("passthrough")
    out = np.full_like(values, np.nan, dtype=out_dtype or values.dtype)
    method.apply(
        get_backend(backend),
        Operands((Buffer.from_numpy(values),)),
        [],
        methods.resolve(method, 1, **parameters),
        place=Place.alone(values.shape),
        out=Buffer.from_numpy(out),
        counts=None,
        threads=1,
    )
    return out


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_without_a_scale_the_bits_are_those_of_the_model(backend: str, dtype: Any):
    values = np.where(abs(VALUES) > 1e4, 7, VALUES).astype(dtype)
    assert passed(values, backend).tobytes() == values.tobytes()


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_a_scale_is_one_rounded_product(backend: str):
    values = VALUES[2:5].astype(np.float32)
    assert passed(values, backend, scale=0.3).tolist() == (np.float32(0.3) * values).tolist()


def test_one_model_and_no_base():
    method = methods.get("passthrough")
    assert not method.roles(methods.resolve(method, 1)).base
    with pytest.raises(InputError, match="passthrough: 2 models given, it takes 1"):
        methods.resolve(method, 2)
