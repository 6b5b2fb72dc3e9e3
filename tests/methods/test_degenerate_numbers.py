"""Numbers of models with which a method cannot do what its parameters promise."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from merged_arrays import drawn, same_on_all

from sta_kernels import methods
from sta_kernels.errors import InputError


@pytest.mark.parametrize(("n_models", "parameters"), [(1, {}), (2, {"k": 3}), (3, {"k": 9})])
def test_consensus_of_more_tasks_than_there_are(n_models: int, parameters: dict[str, Any]):
    k = parameters.get("k", 2)
    with pytest.raises(InputError, match=f"consensus: k: {k} tasks of {n_models} cannot agree"):
        methods.resolve(methods.get("consensus"), n_models, **parameters)
    methods.resolve(methods.get("consensus"), k, **parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "without"),
    [("tatr", {"zero_shot": True}, None), ("sce", {"select_topk": 0.9}, {"select_topk": 1})],
)
def test_one_model_that_is_not_added_is_warned_of(name: str, parameters: dict[str, Any], without: Any):
    base = drawn(30)
    with pytest.warns(UserWarning, match=f"{name}: a single model .* so the result is the base"):
        merged = same_on_all(name, base, [drawn(30, seed=1)], **parameters)
    np.testing.assert_array_equal(merged, np.float32(base))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        methods.resolve(methods.get(name), 2, **parameters)
        if without is not None:
            methods.resolve(methods.get(name), 1, **without)
