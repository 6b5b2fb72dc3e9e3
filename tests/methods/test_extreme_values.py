"""Values at the edge of what a parameter takes: a result, or a refusal that names the parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from merged_arrays import drawn, same_on_all

import sta_kernels as sk
from sta_kernels import methods


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (1, 1, 1)])
def test_karcher_without_a_tolerance(signs: tuple[int, ...]):
    model = drawn(16)
    merged = same_on_all("karcher", None, [sign * model for sign in signs], tol=0)
    np.testing.assert_allclose(merged, model, rtol=1e-6)


def test_karcher_of_zeros_without_a_tolerance():
    assert not same_on_all("karcher", None, np.zeros((2, 4)), tol=0).any()


@pytest.mark.parametrize(("name", "parameter"), [("karcher", "tol"), ("fisher", "epsilon"), ("multislerp", "eps")])
def test_negative_values_are_refused(name: str, parameter: str):
    with pytest.raises(sk.InputError, match=f"{name}: {parameter}: expected a number, zero or more, got -1"):
        methods.resolve(methods.get(name), 2, **{parameter: -1})


@pytest.mark.parametrize("seed", [2**53, 2**53 + 1, 2**64 - 1, np.uint64(2**64 - 1)])
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della", "della_linear"])
def test_a_seed_is_kept_as_it_is(name: str, seed: int):
    assert methods.resolve(methods.get(name), 2, seed=seed).shared["seed"] == int(seed)
    same_on_all(name, drawn(8, 8), [drawn(8, 8, seed=1)], seed=seed, density=0.5)


def test_neighbouring_seeds_draw_differently():
    base, model = drawn(1000), [drawn(1000, seed=1)]
    first, second = (same_on_all("dare_linear", base, model, seed=2**53 + i, density=0.5) for i in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize(
    ("name", "parameter", "value", "bound"),
    [
        ("dare_linear", "seed", 2**64, "2⁶⁴"),
        ("della", "seed", 1e30, "2⁶⁴"),
        ("dare_ties", "seed", -1, "2⁶⁴"),
        ("consensus", "k", 1e30, "2³¹"),
        ("consensus", "k", 2**31, "2³¹"),
        ("tall_mask", "task", 10**30, "2³¹"),
        ("sta", "keep", 10**400, "2³¹"),
        ("karcher", "max_iter", 2**31, "2³¹"),
    ],
)
def test_whole_numbers_that_no_kernel_holds_are_refused(name: str, parameter: str, value: Any, bound: str):
    with pytest.raises(sk.InputError, match=f"{parameter}: expected a whole number, zero or more and below {bound}"):
        methods.resolve(methods.get(name), 2, **{parameter: value})


def fisher(scales: tuple[float, float], **parameters: Any) -> torch.Tensor:
    models = [{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}]
    information = [
        {"w": torch.tensor(row) * scale} for row, scale in zip(([1.0, 2.0], [2.0, 1.0]), scales, strict=True)
    ]
    return sk.merge(None, models, method="fisher", importances=information, normalize=True, **parameters)["w"]


def test_normalised_fisher_leaves_a_scale_out():
    torch.testing.assert_close(fisher((1, 1e-15), epsilon=0), fisher((1, 1), epsilon=0))


@pytest.mark.parametrize("scale", [1e-20, 1e-24, 1e-38, 0.0])
def test_normalised_fisher_refuses_squares_that_underflow(scale: float):
    with pytest.raises(sk.InputError, match="the information of model 2 is so small that its squares underflow"):
        fisher((1, scale), epsilon=0)


def test_an_epsilon_outweighs_squares_that_underflow():
    """What the weight of the small information is divided by is the epsilon."""
    absolute = fisher((1e-30, 1e-30), epsilon=1e-6, epsilon_of="mean")
    torch.testing.assert_close(absolute, torch.tensor([(1 + 2 * 3) / 3, (2 * 2 + 6) / 3]), rtol=1e-5, atol=0)
