"""Each method on the worked examples of its paper's equations, through the same calls as the engine's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sta_kernels import methods
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.methods.base import Operands, Place
from sta_kernels.methods.linear import divisor
from sta_kernels.methods.run import Piece, merge_pieces
from sta_kernels.methods.statistics import Mean, OrderStatistic, Range, Summary
from sta_kernels.methods.subjects import Importance

BACKEND = NumpyBackend()


def run(
    name: str,
    base: np.ndarray[Any, Any] | None,
    models: Any,
    importances: Any = (),
    *,
    target: np.ndarray[Any, Any] | None = None,
    summaries: Any = (),
    **parameters: Any,
) -> tuple[list[float], list[int]]:
    method = methods.get(name)
    buffers = [Buffer.from_numpy(np.ascontiguousarray(model)) for model in models]
    operands = Operands(
        tuple(buffers),
        None if base is None else Buffer.from_numpy(base),
        tuple(Buffer.from_numpy(np.ascontiguousarray(importance)) for importance in importances),
        None if target is None else Buffer.from_numpy(target),
    )
    out = np.full(len(models[0]), np.nan, np.float32)
    settings = methods.resolve(method, len(models), **parameters)
    piece = Piece(operands, Buffer.from_numpy(out), summaries=tuple(summaries))
    (counts,) = merge_pieces(method, [piece], settings, backend=BACKEND, threads=1)
    return out.tolist(), counts.tolist()


def in_two_layers(FX: Any, **parameters: Any) -> tuple[list[float], list[int]]:
    a, b = slice(0, FX.split), slice(FX.split, None)
    results = [run("sta", FX.base[s], FX.finetuned[:, s], FX.importances[:, s], **parameters) for s in (a, b)]
    return results[0][0] + results[1][0], np.add(results[0][1], results[1][1]).tolist()


@pytest.mark.parametrize(
    ("parameters", "merged", "counts"),
    [
        ({"p": 0.7}, (1, -2, 0.5, 0.375, 3, -1.125), [0, 2, 1, 3]),
        ({"keep": 1}, (1, -2, 0.5, 0.375, 3, -1.125), [0, 2, 1, 3]),
        ({"p": 0.3}, (1, -1.75, 0.5, 0.75, 3, -1.125), [2, 2, 2, 2]),
        ({"p": 0}, (1, -1.75, 0.5, 0.75, 3, -1.125), [2, 2, 2, 2]),
        ({"p": 1}, (1, -2, 0.5, 0, 3, -1), [0, 0, 0, 6]),
        ({"measure": "amp", "p": 0.7}, (1.5, -2, 0.625, -0.375, 3, -1), [1, 1, 1, 3]),
        ({"keep": 3}, (1.375, -2.375, 0.375, 0.375, 3, -0.375), [6, 6, 6, 0]),
        ({"keep": 3, "weight": [1, 2, 4], "lambda_": 0.5}, (1.25, -1.9375, 0.125, -0.1875, 3.375, 0), [6, 6, 6, 0]),
    ],
)
def test_sta(FX: Any, parameters: dict[str, Any], merged: tuple[float, ...], counts: list[int]) -> None:
    assert in_two_layers(FX, **parameters) == (list(merged), counts)


def test_sta_normalised_by_the_mean_ranks_by_importance_over_mean() -> None:
    base, models = np.zeros(2, np.float32), np.array([[1, 1], [2, 2]], np.float32)
    importances = np.array([[3, 5], [10, 90]], np.float32)  # over their means: (.75, 1.25), (.2, 1.8)
    assert run("sta", base, models, importances, normalise="mean")[0] == [1, 2]
    assert run("sta", base, models, importances, normalise="minmax")[0] == [0, 0]  # two elements are always {0, 1}


@pytest.mark.parametrize(("ties", "merged"), [("drop", 0), ("all", 7), ("first", 1)])
def test_sta_ties(ties: str, merged: float) -> None:
    models = np.array([[1, 0, 0], [2, 0, 0], [4, 0, 0]], np.float32)
    importances = np.array([[1, 0, 2]] * 3, np.float32)
    assert run("sta", np.zeros(3, np.float32), models, importances, ties=ties)[0][0] == merged


@pytest.mark.parametrize("target", [None, np.array((2, 2, 2, 2, 2, 2), np.float32)])
def test_sta_forget(FX: Any, target: np.ndarray[Any, Any] | None) -> None:
    importance = np.array([[5, 1, 7, 3, 2, 6]], np.float32)
    merged, counts = run("sta_forget", FX.base, FX.finetuned[:1], importance, target=target)
    start = FX.base if target is None else target
    expected = start - np.array((0, 0, 1, 0, 0, 1), np.float32) * FX.taus[0]
    assert merged == expected.tolist()
    assert counts == [2]


@pytest.mark.parametrize(("p", "kept"), [(0, 5), (0.7, 2), (1, 0)])
def test_sta_forget_at_the_ends_of_p(FX: Any, p: float, kept: int) -> None:
    assert run("sta_forget", FX.base, FX.finetuned[:1], [np.float32((5, 1, 7, 3, 2, 6))], p=p)[1] == [kept]


def test_linear(FX: Any) -> None:
    merged, counts = run("linear", None, FX.finetuned)
    np.testing.assert_allclose(merged, (1.125, -2.125, 0.458333, 0.125, 3, -0.791667), atol=1e-6)
    assert counts == []
    weighted = run("linear", None, FX.finetuned[:2], weight=[1, 3])[0]
    assert weighted == ((FX.finetuned[0] + 3 * FX.finetuned[1]) / 4).tolist()
    assert (
        run("linear", None, FX.finetuned[:2], weight=[1, 3], normalize=False)[0]
        == (FX.finetuned[0] + 3 * FX.finetuned[1]).tolist()
    )


def test_weights_that_sum_to_zero_divide_by_one(FX: Any) -> None:
    assert divisor((1.0, -1.0), normalize=True) == 1.0
    assert divisor((1e16, 3.0, -1e16), normalize=True) == 3.0  # the sum is exact
    assert run("linear", None, FX.finetuned[:2], weight=[1, -1])[0] == (FX.taus[0] - FX.taus[1]).tolist()


def test_task_arithmetic(FX: Any) -> None:
    merged, _ = run("task_arithmetic", FX.base, FX.finetuned, lambda_=0.4)
    np.testing.assert_allclose(merged, (1.15, -2.15, 0.45, 0.15, 3, -0.75), atol=1e-6)
    negated = run("task_arithmetic", FX.base, FX.finetuned[:1], weight=-0.5)[0]
    assert negated == [0.75, -1.9375, 0.5, -0.1875, 3.375, -1.125]
    halved = run("task_arithmetic", FX.base, FX.finetuned[:2], normalize=True)[0]
    assert halved == (FX.base + FX.taus[:2].mean(axis=0)).tolist()


def test_the_statistics_that_each_method_declares() -> None:
    sta, forget = methods.get("sta"), methods.get("sta_forget")
    minmax = methods.resolve(sta, 2)
    assert sta.statistics(minmax, 2, Place.alone((10,)), ()) == (Range(Importance(0, "lp")), Range(Importance(1, "lp")))
    mean = methods.resolve(sta, 2, normalise="mean", measure="lp_amp")
    assert sta.statistics(mean, 2, Place.alone((10,)), ()) == (
        Mean(Importance(0, "lp_amp")),
        Mean(Importance(1, "lp_amp")),
    )
    assert forget.statistics(methods.resolve(forget, 1), 1, Place.alone((6,)), ()) == (
        OrderStatistic(Importance(0, "lp"), 4),
    )
    for name in ("linear", "task_arithmetic"):
        assert methods.get(name).statistics(methods.resolve(methods.get(name), 2), 2, Place.alone((10,)), ()) == ()


@pytest.mark.parametrize("name", methods.names())
def test_amplitude_reads_no_importance(name: str) -> None:
    method = methods.get(name)
    for measure in ("lp", "amp", "lp_amp"):
        if any(parameter.name == "measure" for parameter in method.parameters):
            settings = methods.resolve(method, 1, measure=measure, **({"keep": 1} if name == "sta" else {}))
            assert method.roles(settings).importance == (measure != "amp")


def test_ranges_that_a_file_carries_are_used_in_place_of_a_read(FX: Any) -> None:
    """Wrong ones on purpose: with them, the first task wins wherever its importance is not 0, and else the third."""
    narrow, wide = Summary(0.0, 1e-3, 1e-3), Summary(0.0, 1e6, 1e6)
    a = slice(0, FX.split)
    for normalise in ("minmax", "mean"):
        merged, _ = run(
            "sta",
            FX.base[a],
            FX.finetuned[:, a],
            FX.importances[:, a],
            summaries=(narrow, wide, wide),
            normalise=normalise,
        )
        assert merged == [FX.finetuned[2][0], *FX.finetuned[0][1:4]]


@pytest.mark.parametrize("normalise", ["minmax", "mean"])
def test_segments_without_elements(normalise: str) -> None:
    nothing = np.empty(0, np.float32)
    assert run("sta", nothing, [nothing] * 2, [nothing] * 2, normalise=normalise) == ([], [0, 0, 0])
    assert run("sta_forget", nothing, [nothing], [nothing]) == ([], [0])
    assert run("linear", None, [nothing] * 2) == ([], [])
