"""Every mistake of a caller is an InputError that names the state dict and the entry."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from sta_kernels import merging, state_dict
from sta_kernels.errors import InputError, RunError
from sta_kernels.merging import forget, merge

W = torch.ones(2, 3)
GOOD = {"w": W}


def refused(message: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        merge(*arguments, **options)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "finetuned[1]: no entry 'w', which base has"),
        ({"w": W.t()}, "finetuned[1]: 'w' has shape [3, 2], base has [2, 3]"),
        ({"w": W.int()}, "finetuned[1]: 'w' is I32, which no kernel reads"),
        ({"w": W.to(torch.float8_e4m3fn)}, "finetuned[1]: 'w' is torch.float8_e4m3fn, which no kernel reads"),
        ({"w": W.to("meta")}, "finetuned[1]: 'w' is on meta, which no kernel reads; move it with .cpu()"),
        ({"w": W.to_sparse()}, "finetuned[1]: 'w' has layout torch.sparse_coo"),
        ({"w": W, "v": W * 2}, "finetuned[1]: 'v' is not in base; exclude it"),
        ({"w": W, "epoch": 3}, "finetuned[1]: expected tensors by name, but 'epoch' is a int"),
        ({0: W}, "finetuned[1]: expected tensors by name, but 0 is a Tensor"),
        ([W], "finetuned[1]: expected a state dict (a mapping of names to tensors), got a list"),
        (None, "finetuned[1]: expected a state dict (a mapping of names to tensors), got a NoneType"),
    ],
)
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_a_model_that_does_not_fit(method: str, model: Any, message: str) -> None:
    refused(message, GOOD, [GOOD, model], method=method)


def test_a_list_of_models_is_a_list() -> None:
    refused("finetuned: expected a list of state dicts", GOOD, GOOD, method="linear")
    refused("finetuned: expected a list of state dicts, got a NoneType", GOOD, None, method="linear")
    refused("linear: 0 models given", GOOD, [], method="linear")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("role", ["base", "finetuned[1]", "importances[0]", "target"])
def test_values_that_are_not_finite(role: str, bad: float) -> None:
    states = {"base": W, "finetuned[1]": W, "importances[0]": W}
    poisoned = W.clone()
    poisoned[1, 0] = poisoned[1, 2] = bad
    message = f"{role}: 'w' is {bad} at [1, 0]; repair the tensor, or exclude it"
    if role == "target":
        with pytest.raises(InputError, match=re.escape(message)):
            forget({"w": poisoned}, GOOD, GOOD, GOOD)
        return
    states[role] = poisoned
    base, model, importance = ({"w": tensor} for tensor in states.values())
    refused(message, base, [GOOD, model], importances=[importance, GOOD])
    merge(base, [GOOD, model], importances=[importance, GOOD], exclude=["w"])


def test_a_scalar_that_is_not_finite() -> None:
    nan = {"s": torch.tensor(float("nan"))}
    refused("base: 's' is nan at []", nan, [{"s": torch.tensor(1.0)}], method="task_arithmetic")


@pytest.mark.parametrize(
    ("importances", "message"),
    [
        (None, "none given (sk.importance makes them; or use measure='amp')"),
        ([], "0 given for 2 models"),
        ([GOOD] * 3, "3 given for 2 models"),
        (GOOD, "expected a list of state dicts, got a single one"),
    ],
)
def test_importances_are_one_per_model(importances: Any, message: str) -> None:
    refused(f"sta: importances: {message}", GOOD, [GOOD, GOOD], importances=importances)


def test_base_and_models_are_looked_at_before_importances() -> None:
    refused("base: expected a state dict", W, [GOOD, GOOD])
    refused("finetuned[1]: expected a state dict", GOOD, [GOOD, W])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("parameters", [{}, {"normalise": "mean"}, {"measure": "lp_amp"}])
def test_an_importance_is_never_negative(dtype: torch.dtype, parameters: dict[str, Any]) -> None:
    negative = W.to(dtype, copy=True)
    negative[1, 0] = -0.5
    message = "importances[1]: 'w' goes down to -0.5, but an importance is never negative; is this a model?"
    refused(message, GOOD, [GOOD, GOOD], importances=[GOOD, {"w": negative}], **parameters)
    with pytest.raises(InputError, match=r"^importances\[0\]: 'w' goes down to -0.5"):
        forget(None, GOOD, GOOD, {"w": negative})


def test_negative_and_empty_zeros_are_importances() -> None:
    state = {"w": -torch.zeros(2, 3), "empty": torch.empty(0, 3)}
    merge(state, [state, state], importances=[state, state])


def test_a_trained_entry_without_importance() -> None:
    base, model = {"w": W, "v": W * 3}, {"w": W, "v": W * 2}
    message = "no importance for 'v', which finetuned[1] has trained; compute it, or exclude the entry"
    refused(message, base, [base, model], importances=[GOOD, GOOD])
    refused("importances[0]: no importance for 'v'", base, [base, model], importances=[GOOD, base])


def test_importances_that_do_not_fit() -> None:
    refused(
        "importances[1]: 'w' has shape [3, 2], its parameter has", GOOD, [GOOD] * 2, importances=[GOOD, {"w": W.t()}]
    )
    refused("importances[0]: importance of 'v', but", GOOD, [GOOD] * 2, importances=[{"w": W, "v": W * 2}, GOOD])
    refused("importances[0]: 'w' is I64", GOOD, [GOOD] * 2, importances=[{"w": W.long()}, GOOD])


def test_a_model_that_unties_what_the_base_ties() -> None:
    base = {"embed": W, "lm_head": W}
    equal, untied = {"embed": W, "lm_head": W.clone()}, {"embed": W, "lm_head": W * 2}
    refused("finetuned[1]: 'lm_head' and 'embed' differ, but base ties them", base, [equal, untied], method="linear")
    assert merge(base, [equal], method="linear")["embed"].equal(W)


def test_an_importance_that_unties_what_the_base_ties() -> None:
    base = {"embed": W, "lm_head": W}
    equal, untied = {"embed": W, "lm_head": W.clone()}, {"embed": W, "lm_head": W * 2}
    message = "importances[1]: 'lm_head' and 'embed' differ, but base ties them"
    refused(message, base, [base, base], importances=[equal, untied])


def test_overflow_of_float16() -> None:
    base = {"w": W, "v": torch.tensor([1.0, 1e5])}
    message = "'v' overflows float16 at [1]; write bfloat16 or float32 instead"
    refused(message, base, [base], method="linear", out_dtype=torch.float16)
    refused(message, base, [base], method="linear", out_dtype=torch.float16, exclude=["v"])
    mask = {"w": W, "v": torch.tensor([1.0, -torch.inf])}
    assert merge(mask, [mask], method="linear", out_dtype=torch.float16, exclude=["v"])["v"][1] == -torch.inf


def test_an_importance_that_overflows() -> None:
    large = {"w": torch.tensor([1.0, 1e25])}
    base = {"w": torch.ones(2)}
    refused("finetuned[1]: 'w': its importance (amp) overflows float32", base, [base, large], measure="amp")


def test_training_too_small_for_float32_to_see() -> None:
    base = {"w": W, "v": torch.ones(2, dtype=torch.float64)}
    model = {"w": W, "v": base["v"] + 1e-12}
    refused("no importance for 'v', which finetuned[0] has trained", base, [model, base], importances=[GOOD, GOOD])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tie"}, "unknown method 'tie' (did you mean `ties`?); known: "),
        ({"density": 1}, "linear has no parameter 'density'"),
        ({"exclude": ["v"]}, "exclude: 'v' matches no tensor"),
        ({"exclude": "v.*"}, "exclude: 'v.*' matches no tensor"),
        ({"split": {"w": 4}}, "split: 'w' of shape [2, 3] does not divide into 4"),
        ({"split": {"v": 2}}, "split: 'v' matches no tensor"),
        ({"out_dtype": torch.int8}, "out_dtype: expected torch.float32, torch.bfloat16"),
        ({"out_dtype": "float32"}, "out_dtype: expected torch.float32, torch.bfloat16"),
        ({"threads": 0}, "threads: expected 1 or more, got 0"),
        ({"target": GOOD}, "linear takes no target"),
        ({"importances": [GOOD, GOOD]}, "linear takes no importances"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    refused(message, GOOD, [GOOD, GOOD], **{"method": "linear", **options})


def test_methods_that_read_the_base_need_one() -> None:
    refused("task_arithmetic needs the base", None, [GOOD], method="task_arithmetic")


def test_forgetting_holds_base_and_model_against_the_target() -> None:
    with pytest.raises(InputError, match=r"^base: no entry 'head', which target has"):
        forget({"w": W, "head": W * 2}, GOOD, GOOD, GOOD)
    with pytest.raises(InputError, match=r"^finetuned\[0\]: 'w' has shape"):
        forget(GOOD, GOOD, {"w": W.t()}, GOOD)


def test_tensors_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's device without memory standing in for a GPU."""
    monkeypatch.setattr(state_dict, "SERVED", ("cpu", "meta"))
    elsewhere = {"w": W.to("meta")}
    message = "{} 'w' is on {}, but {} is on {}; move one of them with .to()"
    refused(message.format("finetuned[1]:", "meta", "base", "cpu"), GOOD, [GOOD, elsewhere], method="linear")
    refused(message.format("finetuned[0]:", "cpu", "base", "meta"), elsewhere, [GOOD], method="task_arithmetic")
    refused(message.format("importances[0]:", "meta", "base", "cpu"), GOOD, [GOOD], importances=[elsewhere])
    refused("base: 'v' is on meta, but base is on cpu", {"w": W, "v": W.to("meta")}, [GOOD], method="linear")


def test_a_device_that_nothing_serves_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def choose(*, device: str) -> None:
        asked.append(device)
        raise RunError(f"tensors are on {device}")

    monkeypatch.setattr(state_dict, "SERVED", ("meta",))
    monkeypatch.setattr(merging, "get_backend", choose)
    elsewhere = {"w": W.to("meta")}
    with pytest.raises(RunError, match="tensors are on meta"):
        merge(elsewhere, [elsewhere], method="linear")
    assert asked == ["meta"]
