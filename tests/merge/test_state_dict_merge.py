"""Merging and forgetting state dicts: values, copies, ties, views."""

from __future__ import annotations

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sta_kernels.merging import forget, merge

State = dict[str, torch.Tensor]


def tensors(values: np.ndarray[Any, Any], split: int) -> State:
    return {"a": torch.from_numpy(values[:split].copy()), "b": torch.from_numpy(values[split:].copy())}


@pytest.fixture
def example(FX: Any) -> tuple[State, list[State], list[State]]:
    return (
        tensors(FX.base, FX.split),
        [tensors(row, FX.split) for row in FX.finetuned],
        [tensors(row, FX.split) for row in FX.importances],
    )


def flat(state: State) -> list[float]:
    return [value for tensor in state.values() for value in tensor.flatten().tolist()]


@pytest.mark.parametrize(
    ("parameters", "merged"),
    [
        ({}, (1, -2, 0.5, 0.375, 3, -1.125)),
        ({"p": 0.3}, (1, -1.75, 0.5, 0.75, 3, -1.125)),
        ({"p": 1.0}, (1, -2, 0.5, 0, 3, -1)),
        ({"keep": 1}, (1, -2, 0.5, 0.375, 3, -1.125)),
        ({"method": "sta", "measure": "amp"}, (1.5, -2, 0.625, -0.375, 3, -1)),
        ({"method": "task_arithmetic", "lambda_": 0.5}, (1.1875, -2.1875, 0.4375, 0.1875, 3, -0.6875)),
        ({"method": "linear", "weight": [1, 1, 2]}, (1.125, -2, 0.40625, 0, 3, -0.71875)),
    ],
)
def test_worked_examples(example: Any, parameters: dict[str, Any], merged: tuple[float, ...]) -> None:
    base, finetuned, importances = example
    if parameters.get("method", "sta") == "sta":
        parameters = {**parameters, "importances": importances}
    result = merge(base, finetuned, **parameters)
    assert list(result) == ["a", "b"]
    np.testing.assert_allclose(flat(result), merged, rtol=2e-7)


def test_forgetting(FX: Any) -> None:
    base, model = {"w": torch.tensor(FX.base)}, {"w": torch.tensor(FX.finetuned[0])}
    importance = {"w": torch.tensor([5.0, 1, 7, 3, 2, 6])}
    counts: dict[str, list[int]] = {}
    forgotten = forget(None, base, model, importance, counts=counts)
    assert flat(forgotten) == [1, -2, 0.5, 0, 3, -1.25]
    assert counts == {"w": [2]}
    target = {"head": torch.ones(1), "w": torch.zeros(6, dtype=torch.float64)}
    edited = forget(target, base, model, importance, exclude=["head"], weight=2, lambda_=0.5)
    assert list(edited) == ["head", "w"]
    assert edited["w"].dtype == torch.float64
    assert edited["w"].tolist() == [0, 0, 0, 0, 0, -0.25]
    assert torch.equal(merge(base, [model], method="sta_forget", importances=[importance])["w"], forgotten["w"])


def test_counts_name_every_part(example: Any) -> None:
    base, finetuned, importances = example
    counts: dict[str, list[int]] = {}
    merge(base, finetuned, importances=importances, counts=counts, split={"a": 2})
    assert list(counts) == ["a[0:2]", "a[2:4]", "b"]
    assert counts["b"] == [0, 1, 1, 0]
    counts.clear()
    merge(base, finetuned, method="linear", counts=counts)
    assert counts == {}


def test_arguments_are_left_as_they_are_and_nothing_is_shared(example: Any) -> None:
    base, finetuned, importances = example
    base["n"] = torch.tensor([3])
    base["frozen"] = finetuned[0]["frozen"] = finetuned[1]["frozen"] = finetuned[2]["frozen"] = torch.ones(2)
    states = [base, *finetuned, *importances]
    before = [{name: tensor.clone() for name, tensor in state.items()} for state in states]
    result = merge(base, finetuned, importances=importances)
    result = {**result, **forget(None, base, finetuned[0], importances[0])} | result
    for tensor in result.values():
        tensor.zero_()
    for state, copy in zip(states, before, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in copy)


def oracle(base: Any, models: Any, importances: Any, p: float) -> np.ndarray[Any, Any]:
    """Eq. 13-17 per entry, sorted; float32 in the order that METHODS fixes."""
    low, high = importances.min(axis=1, keepdims=True), importances.max(axis=1, keepdims=True)
    spread = high - low
    normalised = np.where(spread > 0, (importances - low) / np.where(spread > 0, spread, 1), np.float32(0))
    k = int(1 + (len(models) - 1) * Fraction(str(p)))
    mask = normalised > np.sort(normalised, axis=0)[k - 1]
    total = np.zeros_like(base)
    for kept, model in zip(mask, models, strict=True):
        total += np.where(kept, model - base, np.float32(0))
    return np.where(mask.any(axis=0), base + total, base)


@settings(max_examples=60, deadline=None)
@given(
    n_models=st.integers(2, 9),
    size=st.integers(1, 40),
    p=st.integers(0, 100),
    seed=st.integers(0, 2**32 - 1),
    coarse=st.booleans(),
)
def test_merge_is_the_equations_taken_literally(n_models: int, size: int, p: int, seed: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(size).astype(np.float32)
    models = base + rng.standard_normal((n_models, size)).astype(np.float32)
    importances = rng.lognormal(0, 2, (n_models, size)).astype(np.float32)
    if coarse:  # ties
        importances = np.minimum(np.floor(importances), 3)
    merged = merge(
        {"w": torch.tensor(base)},
        [{"w": torch.tensor(model)} for model in models],
        importances=[{"w": torch.tensor(importance)} for importance in importances],
        p=p / 100,
    )
    expected = oracle(base, models, importances, p / 100)
    np.testing.assert_array_equal(merged["w"].numpy().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_stored_and_written_dtypes(example: Any, dtype: torch.dtype) -> None:
    base, finetuned, importances = example
    expected = flat(merge(base, finetuned, importances=importances))
    base, *finetuned = [{name: tensor.to(dtype) for name, tensor in state.items()} for state in (base, *finetuned)]
    result = merge(base, finetuned, importances=importances)
    assert all(tensor.dtype == dtype for tensor in result.values())
    assert flat(result) == expected  # eighths are exact in all of them
    wide = merge(base, finetuned, importances=importances, out_dtype=torch.float64)
    assert all(tensor.dtype == torch.float64 for tensor in wide.values())
    assert flat(wide) == expected


def test_out_dtype_is_that_of_copied_floats_too_but_not_of_integers() -> None:
    base = {"w": torch.ones(2), "scale": torch.tensor(1.1), "n": torch.tensor(3), "bn.running_var": torch.ones(2)}
    result = merge(base, [base, base], exclude=["scale"], method="linear", out_dtype=torch.bfloat16)
    assert {name: tensor.dtype for name, tensor in result.items()} == {
        "w": torch.bfloat16,
        "scale": torch.bfloat16,
        "n": torch.int64,
        "bn.running_var": torch.bfloat16,
    }


def test_where_nothing_is_selected_the_base_itself_survives() -> None:
    base = {"w": torch.tensor([-0.0, 0.1, 1e-40], dtype=torch.float64)}
    models = [{"w": torch.ones(3)}, {"w": torch.ones(3)}]
    equal = [{"w": torch.ones(3)}] * 2
    kept = merge(base, models, importances=equal)["w"]
    assert kept.tolist() == base["w"].tolist()
    assert torch.signbit(kept[0])


def test_copies_come_from_the_base() -> None:
    base = {
        "w": torch.zeros(2),
        "position_ids": torch.arange(3),
        "mask": torch.tensor([True, False]),
        "bn.running_mean": torch.tensor([1.0]),
        "logit_scale": torch.tensor(4.6),
    }
    model = {
        "w": torch.ones(2),
        "position_ids": torch.arange(3),
        "bn.running_mean": torch.tensor([9.0]),
        "head": torch.ones(7),
    }
    result = merge(base, [model], method="task_arithmetic", exclude=["logit_scale", "head"])
    assert list(result) == list(base)
    assert result["w"].tolist() == [1, 1]
    for name in list(base)[1:]:
        assert torch.equal(result[name], base[name])


def test_integers_that_differ_are_kept_with_a_warning() -> None:
    base = {"w": torch.zeros(2), "ids": torch.arange(3)}
    with pytest.warns(UserWarning, match=r"finetuned\[1\]: 'ids' differs from base, whose value is kept"):
        result = merge(base, [base, {"w": torch.ones(2), "ids": torch.arange(1, 4)}], method="linear")
    assert result["ids"].tolist() == [0, 1, 2]


def test_frozen_entries_have_no_importance_and_are_copied() -> None:
    base = {"w": torch.zeros(4), "frozen": torch.tensor([1.5, -0.0])}
    models = [{"w": torch.ones(4), "frozen": base["frozen"].half()} for _ in range(2)]
    importances = [{"w": torch.tensor([0.0, 1, 2, 3])}, {"w": torch.tensor([3.0, 2, 1, 0])}]
    result = merge(base, models, importances=importances)
    assert torch.equal(result["frozen"], base["frozen"])
    assert result["frozen"].dtype == torch.float32
    assert result["w"].tolist() == [1, 1, 1, 1]


def tied_model(scale: float) -> State:
    embed = torch.arange(6.0).reshape(3, 2) * scale
    return {"embed": embed, "w": torch.ones(2) * scale, "lm_head": embed, "flag": torch.ones(1, dtype=torch.bool)}


@pytest.mark.parametrize("missing", [None, "embed", "lm_head"])
def test_tied_entries_are_merged_once_and_stay_tied(missing: str | None) -> None:
    base, models = tied_model(1), [tied_model(2), tied_model(4)]
    importances = [{"lm_head": torch.rand(3, 2), "w": torch.rand(2)} for _ in models]
    if missing:
        del models[0][missing]
    counts: dict[str, list[int]] = {}
    result = merge(base, models, importances=importances, counts=counts)
    assert list(result) == list(base)
    assert result["embed"] is result["lm_head"]
    assert set(counts) == {"embed", "w"}


def test_values_that_happen_to_be_equal_are_not_tied() -> None:
    base = {"a": torch.ones(2), "b": torch.ones(2)}
    result = merge(base, [{"a": torch.ones(2), "b": torch.zeros(2)}], method="linear")
    assert result["a"].tolist() == [1, 1]
    assert result["b"].tolist() == [0, 0]


@pytest.mark.parametrize("view", [lambda w: w.t(), lambda w: w[:1], lambda w: w.view(torch.float16), lambda w: w[:0]])
def test_other_views_of_the_same_memory_are_not_tied(view: Any) -> None:
    w = torch.arange(4, dtype=torch.bfloat16).reshape(2, 2)
    base = {"a": w, "b": view(w), "c": torch.empty(0, 2, dtype=torch.bfloat16)}
    models = [{name: tensor + i for name, tensor in base.items()} for i in (0, 2)]
    result = merge(base, models, method="linear")
    for name, tensor in base.items():
        assert torch.equal(result[name], tensor + 1)
    assert result["b"] is not result["c"]


def test_copies_are_contiguous() -> None:
    base = {"w": torch.ones(1), "e": torch.rand(3, 2).t(), "n": torch.arange(6).reshape(2, 3).t()}
    result = merge(base, [base], method="linear", exclude=["e"])
    assert all(torch.equal(result[name], base[name]) and result[name].is_contiguous() for name in base)


def test_a_base_that_is_not_read_may_hold_anything() -> None:
    assert merge({"w": torch.tensor(float("nan"))}, [{"w": torch.tensor(3.0)}], method="linear")["w"].item() == 3


def test_a_tied_head_that_only_a_model_lists_is_left_out() -> None:
    base = tied_model(1)
    del base["lm_head"]
    assert list(merge(base, [tied_model(3)], method="linear")) == list(base)


def test_wrappings_are_taken_off_and_the_prefix_is_the_bases(example: Any) -> None:
    base, finetuned, importances = example
    expected = merge(base, finetuned, importances=importances)

    def wrapped(state: State) -> dict[str, Any]:
        return {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}

    plain = merge(base, [wrapped(state) for state in finetuned], importances=[wrapped(state) for state in importances])
    assert {name: tensor.tolist() for name, tensor in plain.items()} == {n: t.tolist() for n, t in expected.items()}
    counts: dict[str, list[int]] = {}
    prefixed = merge(wrapped(base), finetuned, importances=importances, counts=counts, split={"a": 1})
    assert list(prefixed) == ["module.a", "module.b"] == list(counts)
    assert flat(prefixed) == flat(expected)


def test_split_normalises_parts_apart() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k = (torch.rand(3, 2, 5, generator=rng) for _ in range(2))
    k *= 1000
    importances = torch.cat((q, k), dim=1)  # [3 tasks, 4 rows, 5]
    base = torch.zeros(4, 5)
    models = torch.rand(3, 4, 5, generator=rng)

    def merged(rows: slice, **options: Any) -> torch.Tensor:
        return merge(
            {"qk": base[rows]},
            [{"qk": model[rows]} for model in models],
            importances=[{"qk": importance[rows]} for importance in importances],
            **options,
        )["qk"]

    whole = slice(0, 4)
    apart = torch.cat((merged(slice(0, 2)), merged(slice(2, 4))))
    assert torch.equal(merged(whole, split={"q*": 2}), apart)
    assert not torch.equal(merged(whole), apart)


@pytest.mark.parametrize("split", [None, {"w": 2}])
def test_strided_views_and_parameters(split: dict[str, int] | None) -> None:
    rng = torch.Generator().manual_seed(1)
    values = torch.randn(7, 6, 4, generator=rng)
    base, *rest = values
    models, importances = rest[:3], [tensor.abs() for tensor in rest[3:]]

    def run(view: Any) -> torch.Tensor:
        return merge(
            {"w": view(base)},
            [{"w": torch.nn.Parameter(view(model))} for model in models],
            importances=[{"w": view(importance)} for importance in importances],
            split=split,
        )["w"]

    expected = run(lambda tensor: tensor)
    for view in (
        lambda tensor: tensor.t().contiguous().t(),
        lambda tensor: torch.stack((tensor, tensor), dim=-1)[..., 1],
        lambda tensor: torch.complex(tensor, -tensor).conj().imag,  # a view that only pretends to be negated
    ):
        result = run(view)
        assert torch.equal(result, expected)
        assert result.is_contiguous()
        assert not result.requires_grad


def test_scalars_and_entries_without_elements() -> None:
    base = {"scale": torch.tensor(2.0), "none": torch.empty(0, 3)}
    models = [{"scale": torch.tensor(4.0), "none": torch.empty(0, 3)}] * 2
    importances = [{"scale": torch.tensor(1.0), "none": torch.empty(0, 3)}] * 2
    result = merge(base, models, importances=importances)
    assert result["scale"].item() == 2  # a constant importance selects nothing
    assert result["none"].shape == (0, 3)
    assert merge(base, models, method="linear")["scale"].item() == 4
    assert merge(base, models, method="linear")["none"].shape == (0, 3)


def test_linear_without_a_base() -> None:
    models = [{"w": torch.tensor([1.0, 3]), "ids": torch.arange(2)}, {"w": torch.tensor([3.0, 5])}]
    result = merge(None, models, method="linear")
    assert result["w"].tolist() == [2, 4]
    assert result["ids"].tolist() == [0, 1]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    rng = torch.Generator().manual_seed(2)
    base, *models = torch.randn(4, 100_003, generator=rng)
    importances = [{"w": torch.rand(100_003, generator=rng)} for _ in models]
    states = {"w": base}, [{"w": model} for model in models]
    for normalise in ("minmax", "mean"):
        one = merge(*states, importances=importances, normalise=normalise, threads=1)["w"]
        assert torch.equal(merge(*states, importances=importances, normalise=normalise, threads=threads)["w"], one)


def test_a_caller_who_flushes_subnormals_gets_the_same_bits() -> None:
    base, models = {"w": torch.zeros(3)}, [{"w": torch.full((3,), 1e-40)}, {"w": torch.full((3,), 1.0)}]
    importances = [{"w": torch.tensor([0, 3e-40, 2e-40])}, {"w": torch.tensor([0, 1.0, 3.0])}]
    states = (base, models)
    expected = merge(*states, importances=importances)["w"], forget(None, base, models[0], importances[0], p=0.5)["w"]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        flushed = (
            merge(*states, importances=importances)["w"],
            forget(None, base, models[0], importances[0], p=0.5)["w"],
        )
    finally:
        torch.set_flush_denormal(False)
    for one, other in zip(expected, flushed, strict=True):
        assert one.view(torch.int32).tolist() == other.view(torch.int32).tolist()
    assert expected[0].tolist()[1:] == [float(torch.tensor(1e-40)), 1.0]


def test_one_model_with_p_is_the_base_and_warns() -> None:
    base, model = {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    importance = {"w": torch.tensor([0.0, 1, 2])}
    with pytest.warns(UserWarning, match="the result is the base"):
        assert merge(base, [model], importances=[importance])["w"].tolist() == [0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merge(base, [model], importances=[importance], keep=1)["w"].tolist() == [1, 1, 1]


def test_nothing_added_is_said_at_the_callers_line(example: Any) -> None:
    base, finetuned, importances = example
    with pytest.warns(UserWarning, match="nothing was added: the result is the base; do two") as caught:
        result = merge(base, finetuned[:2], importances=[importances[0]] * 2)
    assert [warning.filename for warning in caught] == [__file__]
    assert flat(result) == flat(base)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge(base, finetuned, importances=importances)
        merge(base, finetuned[:2], importances=[importances[0]] * 2, ties="all")


def test_warnings_stand_at_the_callers_line(example: Any) -> None:
    base, finetuned, importances = example
    with pytest.warns(UserWarning, match="a single model") as caught:
        merge(base, finetuned[:1], importances=importances[:1])
    step = {"step": torch.tensor(1)}
    with pytest.warns(UserWarning, match="'step' differs") as more:
        forget(None, base | step, finetuned[0] | {"step": torch.tensor(2)}, importances[0])
    assert [warning.filename for warning in [*caught, *more]] == [__file__] * 2


def test_a_single_pattern_excludes(example: Any) -> None:
    base, finetuned, _ = example
    result = merge(base, finetuned, method="linear", exclude="a*")
    assert result["a"].equal(base["a"])
    assert not result["b"].equal(base["b"])
