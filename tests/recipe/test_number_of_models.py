"""What a recipe is told that lists another number of models, as many values as models, or no importance."""

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


def test_a_list_of_one_value_per_model_is_noted_as_a_gradient():
    def notes(parameters: str, models: str = "[{model: a}, {model: b}]") -> list[str]:
        return list(Recipe.parse(f"merge_method: linear\n{parameters}models: {models}\n").notes)

    assert notes("parameters: {weight: [0.5, 0.5]}\n") == [
        "recipe:2: parameters.weight: [0.5, 0.5] is a gradient over depth; one value per model stands under each model"
    ]
    assert notes("parameters: {weight: [0, 0.5, 1]}\n") == notes("parameters: {weight: 0.5}\n") == []
    assert notes("", "[{model: a, parameters: {weight: [0, 1]}}, {model: b}]") == []
    by_filter = "parameters: {weight: [{filter: q, value: 1}, {value: 2}]}\n"
    assert notes(by_filter) == []


@pytest.mark.parametrize(
    ("method", "made"),
    [
        ("sta", "(sk.importance writes it), or `measure: amp`, which needs none"),
        ("fisher", "(sk.FisherInformation writes it)"),
        ("regmean", "(sk.GramMatrices writes it)"),
        (
            "tatr",
            '(sk.importance(…, measure="gradient") of the base writes it), or `zero_shot: true`, which needs none',
        ),
    ],
)
def test_what_makes_an_importance_that_is_missing(method: str, made: str):
    recipe = Recipe.parse(f"merge_method: {method}\nbase_model: a\nmodels: [{{model: b}}, {{model: c}}]\n")
    with pytest.raises(InputError) as caught:
        recipe.settings("w")
    assert str(caught.value).endswith(f" to the model {made}")


def test_learned_coefficients_that_are_missing():
    with pytest.raises(InputError, match=r"coefficients is required \(.*AdaMerging"):
        Recipe.parse("merge_method: adamerging\nbase_model: a\nmodels: [{model: b}]\n")
