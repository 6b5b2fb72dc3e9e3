from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from sta_kernels import methods
from sta_kernels.errors import InputError
from sta_kernels.methods.base import REQUIRED


def test_methods_are_found_by_their_files() -> None:
    assert {"linear", "sta", "sta_forget", "task_arithmetic"} <= set(methods.names())
    assert list(methods.names()) == sorted(methods.names())
    assert all(methods.get(name).name == name for name in methods.names())


def test_no_two_files_define_one_name() -> None:
    import importlib
    import pkgutil

    modules = [importlib.import_module(f"{methods.__name__}.{m.name}") for m in pkgutil.iter_modules(methods.__path__)]
    defined = [method.name for module in modules for method in getattr(module, "METHODS", ())]
    assert sorted(defined) == list(methods.names())


@pytest.mark.parametrize("name", ["stq", "", None, []])
def test_an_unknown_method_lists_the_known(name: Any) -> None:
    with pytest.raises(InputError, match=r"unknown method .*; known: .*linear.*sta.*task_arithmetic"):
        methods.get(name)


def test_an_unknown_method_is_held_against_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown method 'tie' \(did you mean `ties`\?\); known: "):
        methods.get("tie")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sta", "sk.importance makes them; or use measure='amp'"),
        ("fisher", "sk.FisherInformation makes them"),
        ("tatr", 'sk.importance(…, measure="gradient") of the base makes them; or use zero_shot=True'),
    ],
)
def test_missing_importances_are_said_how_to_make(name: str, message: str) -> None:
    from sta_kernels.state_dict_inputs import gather

    method = methods.get(name)
    with pytest.raises(InputError) as caught:
        gather(method, methods.resolve(method, 2), {}, [{}, {}], None, None)
    assert str(caught.value) == f"{name}: importances: none given ({message})"


def test_methods_do_not_import_torch() -> None:
    program = "import sys; from sta_kernels import methods; methods.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", methods.names())
def test_every_parameter_has_a_summary_and_a_default_of_its_own_type(name: str) -> None:
    for parameter in methods.get(name).parameters:
        assert parameter.summary
        if parameter.default is REQUIRED:
            with pytest.raises(InputError, match="is required"):
                methods.resolve(methods.get(name), max(methods.get(name).models[0], 1))
            continue
        assert parameter.default is None or parameter.check(parameter.default) == parameter.default


def test_defaults() -> None:
    settings = methods.resolve(methods.get("sta"), 3)
    assert settings.shared == {
        "p": 0.7,
        "keep": None,
        "measure": "lp",
        "normalise": "minmax",
        "ties": "drop",
        "scope": "tensor",
        "lambda_": 1.0,
    }
    assert settings.per_model == {"weight": (1.0, 1.0, 1.0)}
    assert methods.resolve(methods.get("linear"), 2).shared == {"normalize": True}
    assert methods.resolve(methods.get("task_arithmetic"), 2).shared["normalize"] is False


@pytest.mark.parametrize("name", ["lambda", "lambda_"])
def test_recipe_keys_and_python_names_are_the_same(name: str) -> None:
    settings = methods.resolve(methods.get("task_arithmetic"), 2, **{name: 0.4})
    assert settings.shared["lambda_"] == 0.4


def test_one_value_serves_all_models_and_none_is_the_default() -> None:
    sta = methods.get("sta")
    assert methods.resolve(sta, 3, weight=2).per_model["weight"] == (2.0, 2.0, 2.0)
    assert methods.resolve(sta, 3, weight=[0.5, None, 3]).per_model["weight"] == (0.5, 1.0, 3.0)
    assert methods.resolve(sta, 3, p=None).shared["p"] == 0.7
    assert methods.resolve(sta, 3, p=None, keep=1).shared["keep"] == 1


def test_numpy_numbers_are_taken_as_the_decimals_they_print() -> None:
    sta = methods.get("sta")
    assert methods.resolve(sta, 3, p=np.float32(0.7)).shared["p"] == 0.7
    assert methods.resolve(sta, 3, keep=np.int64(2)).shared["keep"] == 2


@pytest.mark.parametrize(
    ("name", "n_models", "parameters", "message"),
    [
        ("sta", 3, {"density": 0.5}, "sta has no parameter 'density'; known: p, keep, .*lambda"),
        ("sta", 3, {"p": 1.5}, r"sta: p: expected a number in \[0, 1\], got 1.5"),
        ("sta", 3, {"p": "0.7"}, "sta: p: expected a finite float32 number, got '0.7'"),
        ("sta", 3, {"p": True}, "sta: p: expected a finite float32 number, got True"),
        ("sta", 3, {"p": 0.5, "keep": 1}, "sta: give p or keep, not both"),
        ("sta", 3, {"keep": 4}, "sta: keep: 4 entries of 3"),
        ("sta", 3, {"keep": -1}, "sta: keep: expected a whole number"),
        ("sta", 3, {"keep": 1.5}, "sta: keep: expected a whole number"),
        ("sta", 3, {"measure": "l1"}, "sta: measure: expected lp or amp or lp_amp, got 'l1'"),
        ("sta", 3, {"measure": ["lp"]}, r"sta: measure: expected lp or amp or lp_amp, got \['lp'\]"),
        ("sta", 3, {"ties": "last"}, "sta: ties: expected drop or all or first"),
        ("sta", 3, {"normalise": "max"}, "sta: normalise: expected minmax or mean"),
        ("sta", 3, {"weight": [1, 2]}, "sta: weight: 2 values for 3 models"),
        ("sta", 3, {"weight": [1, 2, float("nan")]}, r"sta: weight\[2\]: expected a finite"),
        ("sta", 3, {"weight": 1e39}, "sta: weight: expected a finite float32 number"),
        ("sta", 0, {}, "sta: 0 models given, it takes 1 or more"),
        ("slerp", 2, {"t": 0.5}, r"takes 1 besides the base: sk\.merge\(model_a, \[model_b\], method='slerp', t=…\)"),
        ("arcee_fusion", 2, {}, r"besides the base: sk\.merge\(model_a, \[model_b\], method='arcee_fusion'\)$"),
        ("passthrough", 2, {}, "it takes 1$"),
        ("sta_forget", 2, {}, "sta_forget: 2 models given, it forgets one"),
        ("sta", 2, {"lamda": 1}, r"'lamda' \(did you mean `lambda_`\?\); known: p, keep, .*weight, lambda_$"),
        ("sta_forget", 1, {"keep": 1}, "sta_forget has no parameter 'keep'"),
        ("linear", 2, {"normalize": 1}, "linear: normalize: expected true or false, got 1"),
        ("linear", 2, {"lambda": 1}, "linear has no parameter 'lambda'; known: weight, normalize"),
    ],
)
def test_a_value_that_does_not_fit_is_named(name: str, n_models: int, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        methods.resolve(methods.get(name), n_models, **parameters)


def test_one_model_and_p_warns_that_the_result_is_the_base() -> None:
    with pytest.warns(UserWarning, match="the result is the base; use keep: 1"):
        methods.resolve(methods.get("sta"), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        methods.resolve(methods.get("sta"), 1, keep=1)
        methods.resolve(methods.get("sta"), 2)
