"""What recipes of methods that take one model are told, where they list another number."""

from __future__ import annotations

from pathlib import Path

import pytest

from sta_kernels.errors import InputError
from sta_kernels.recipe import Recipe


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, with the models that the recipes name."""
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        Path(name).mkdir()


def refusal(method: str, models: str, further: str = "") -> str:
    listed = "\n".join(f"- model: {name}" for name in models)
    with pytest.raises(InputError) as caught:
        Recipe.parse(f"merge_method: {method}\nmodels:\n{listed}\n{further}")
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("slerp", "parameters: {t: 0.5}\n"), ("nearswap", "parameters: {t: 0.5}\n"), ("arcee_fusion", "")],
)
def test_two_models_where_one_of_them_should_be_the_base(method: str, parameters: str):
    advice = "set `base_model` to one of the two models listed"
    for further in ("", "base_model: c\n"):
        message = refusal(method, "ab", parameters + further)
        assert message.startswith(f"recipe:2: models: {method} ")
        assert message.endswith(advice)
    assert ("t = 0 is the base" in message) == bool(parameters)
    assert refusal(method, "abd", parameters + "base_model: c\n").endswith("3 are listed besides it")
    assert (
        len(
            Recipe.parse(
                f"merge_method: {method}\nmodels: [{{model: a}}, {{model: b}}]\nbase_model: a\n{parameters}"
            ).models
        )
        == 1
    )


def test_layers_of_several_models_are_stacked_by_slices():
    advice = "takes one model per slice; to stack layers of several, use `slices`, one for each"
    assert refusal("passthrough", "ab") == f"recipe:2: models: passthrough {advice}"
