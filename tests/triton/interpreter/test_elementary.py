"""exp and tanh on every exponent: the bits of the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.elementary import exp_exact, tanh_exact
from sta_kernels.kernels.triton.formulas.elementary import exp, tanh

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

EDGES = (0.0, np.nan, np.inf, 1e-45, 0.625, 9.1, 87.0, 88.0, 1.0, np.log(2), np.log(2) / 2)
BLOCK = 4096


@triton.jit
def _apply_kernel(x_ptr, out_ptr, n_elements, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = here < n_elements
    tl.store(out_ptr + here, FUNCTION(tl.load(x_ptr + here, mask=inside, other=0.0)), mask=inside)


def arguments(greatest: float) -> Array:
    """Of both signs, a few hundred of each exponent up to some magnitude; what lies beside an edge."""
    rng = np.random.default_rng(0)
    bits = np.arange(0, 255, dtype=np.uint32)[:, None] << 23 | rng.integers(0, 1 << 23, (255, 200), np.uint32)
    drawn = bits.reshape(-1).view(np.float32)
    edges = np.array(EDGES, np.float32)
    edges = np.concatenate([np.nextafter(edges, np.float32(to)) for to in (-np.inf, np.inf)] + [edges])
    chosen = np.concatenate([drawn[drawn <= greatest], edges[~(edges > greatest)]])
    return np.concatenate([chosen, -chosen])


@pytest.mark.parametrize(
    ("function", "reference", "greatest"), [(exp, exp_exact, 88.0), (tanh, tanh_exact, np.inf)], ids=["exp", "tanh"]
)
def test_the_bits_of_the_reference(function: Any, reference: Callable[[Array], Array], greatest: float) -> None:
    x = arguments(greatest)
    found = torch.empty(x.size)
    _apply_kernel[(triton.cdiv(x.size, BLOCK),)](torch.from_numpy(x), found, x.size, FUNCTION=function, BLOCK=BLOCK)
    ours, theirs = found.numpy(), reference(x)
    unlike = (ours.view(np.uint32) != theirs.view(np.uint32)) & ~(np.isnan(ours) & np.isnan(theirs))
    assert not unlike.any(), x[unlike][:9]
    assert np.isfinite(theirs).sum() > 20000
