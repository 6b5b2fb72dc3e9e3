"""`slices` and `modules`: what is merged where, by which values, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from sta_kernels.errors import InputError
from sta_kernels.recipe import Recipe


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a base, models a and b and their importance files."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a", "b"):
        Path(name).mkdir()
        Path(name, "importance.safetensors").touch()
    return tmp_path


STACK = """\
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [1, 4], parameters: {scale: 0.5}}]
  - sources: [{model: a, layer_range: [1, 2]}]
"""
TA = """\
merge_method: task_arithmetic
base_model: base
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - model: a
        layer_range: [2, 4]
        parameters: {weight: [{filter: attn, value: 0.1}]}
      - {model: b, layer_range: [0, 2]}
    parameters: {weight: [{filter: layers.2.mlp, value: 0.2}], lambda: 0.5}
parameters: {weight: 0.4, lambda: 0.6, normalize: true}
"""


def test_each_slice_says_which_layers_it_takes():
    recipe = Recipe.parse(STACK)
    assert [spec.model for spec in recipe.models] == ["a", "b"]
    assert [(s.sources[0].model, s.sources[0].start, s.layers) for s in recipe.slices] == [
        (0, 0, 2),
        (1, 1, 3),
        (0, 1, 1),
    ]
    assert [s.base_start for s in recipe.slices] == [None] * 3
    scales = [recipe.part(s).settings("x").per_model["scale"] for s in recipe.slices]
    assert scales == [(None,), (0.5,), (None,)]


def test_source_before_slice_before_recipe_by_the_name_in_each_model():
    recipe = Recipe.parse(TA)
    (one,) = recipe.slices
    assert (one.base_start, one.layers, [s.start for s in one.sources]) == (0, 2, [2, 0])
    part = recipe.part(one)
    assert (part.base, [spec.model for spec in part.models]) == ("base", ["a", "b"])

    def weights(rest: str) -> tuple[float, ...]:
        return part.settings(f"layers.0.{rest}", 0, [f"layers.2.{rest}", f"layers.0.{rest}"]).per_model["weight"]

    assert weights("attn") == (0.1, 0.4)
    assert weights("mlp") == (0.2, 0.4)  # the slice's filter holds for a's layer 2, not for b's layer 0
    assert weights("norm") == (0.4, 0.4)
    settings = part.settings("layers.0.norm")
    assert settings.shared["lambda_"] == 0.5
    assert settings.shared["normalize"] is True


def test_importances_stand_under_the_sources():
    text = TA.replace("task_arithmetic", "sta").replace("lambda: 0.6, normalize: true", "p: 0.4")
    text = text.replace("weight: [{filter: attn", "importance: a/importance.safetensors, weight: [{filter: attn")
    text = text.replace(
        "{model: b, layer_range: [0, 2]}", "{model: b, layer_range: [0, 2], parameters: {importance: b}}"
    )
    recipe = Recipe.parse(text)
    assert [spec.importance for spec in recipe.models] == ["a/importance.safetensors", "b"]
    assert recipe.part(recipe.slices[0]).settings("x").shared["p"] == 0.4


def test_one_module_is_the_recipe_with_values_of_its_own():
    module = "modules:\n  default:\n    parameters: {weight: [{filter: up, value: 2}]}\n    slices:\n"
    head, _, rest = TA.partition("slices:\n")
    body, _, end = rest.partition("parameters: {weight: 0.4")
    text = head + module + body.replace("\n", "\n    ").rstrip(" ").replace("  - sources", "      - sources", 1)
    recipe = Recipe.parse(text + "parameters: {weight: 0.4" + end)
    part = recipe.part(recipe.slices[0])
    assert part.settings("up").per_model["weight"] == (2.0, 2.0)
    assert part.settings("attn").per_model["weight"] == (0.1, 0.4)
    whole = (
        "merge_method: linear\nmodules:\n  default:\n    models: [{model: a}, {model: b}]\n"
        "    parameters: {weight: [{filter: up, value: 2}]}\nparameters: {weight: 3}\n"
    )
    assert Recipe.parse(whole).settings("up").per_model["weight"] == (2.0, 2.0)
    assert Recipe.parse(whole).settings("down").per_model["weight"] == (3.0, 3.0)


def test_what_has_no_effect_in_mergekit_is_noted():
    text = TA.replace(
        "    parameters: {weight: [{filter: layers",
        "    residual_weight: 0.1\n    parameters: {weight: [{filter: layers",
    )
    text = text.replace(
        "{model: base, layer_range: [0, 2]}", "{model: base, layer_range: [0, 2], parameters: {weight: 1}}"
    )
    notes = Recipe.parse(text).notes
    assert len(notes) == 2
    assert any("residual_weight: without effect" in note for note in notes)
    assert any("sources[0].model: the base, not a task" in note for note in notes)


def test_gradients_are_asked_by_depth():
    recipe = Recipe.parse(STACK.replace("scale: 0.5", "scale: [0.0, 1.0]"))
    part = recipe.part(recipe.slices[1])
    assert [part.settings("x", Fraction(i, 2)).per_model["scale"] for i in range(3)] == [(0.0,), (0.5,), (1.0,)]


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


def instead_of_slices(contents: str) -> Callable[[str], str]:
    return lambda text: text.partition("slices:")[0] + contents + "\n"


RANGE = "layer_range: [2, 4]"
SECOND = "slices[0].sources[1]"
VALUES = "    parameters: {weight: [{filter: layers"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap(RANGE, "layer_range: [2, 5]"), f"r.yaml:7: {SECOND}.layer_range: 3 layers, but 2 of the first source"),
        (swap(RANGE, "layer_range: [4, 2]"), f"r.yaml:7: {SECOND}.layer_range: [4, 2) holds no layers"),
        (swap(RANGE, "layer_range: [-2, 0]"), f"{SECOND}.layer_range: [-2, 0) holds no layers"),
        (swap(RANGE, "layer_range: [2, 4, 6]"), f"{SECOND}.layer_range: expected [first layer, layer after"),
        (swap(RANGE, "layer_range: [0, true]"), f"{SECOND}.layer_range: expected [first layer, layer after"),
        (swap(RANGE, "layer_rnge: [2, 4]"), f"r.yaml:7: {SECOND}.layer_rnge: not understood; did you mean `layer_r"),
        (swap(f"        {RANGE}\n", ""), f"r.yaml:6: {SECOND}: `layer_range` is missing"),
        (swap(VALUES, "    base_model: a\n" + VALUES), "r.yaml:10: slices[0].base_model: a base for one slice"),
        (swap(VALUES, VALUES.replace("parameters", "paramters")), "did you mean `parameters`?"),
        (
            swap("      - {model: base, layer_range: [0, 2]}\n", ""),
            "r.yaml:4: slices[0]: the base is not among the",
        ),
        (swap("model: b,", "model: base,"), "slices[0].sources[2]: the base stands among the sources already"),
        (swap("base_model: base\n", ""), "r.yaml: base_model is missing"),
        (swap("parameters: {weight: 0.4", "target: a\nparameters: {weight: 0.4"), "target: not supported with slices"),
        (swap("lambda: 0.5", "lambda: x"), "slices[0].parameters.lambda: expected"),
        (instead_of_slices("slices: []"), "r.yaml:3: slices: no slices"),
        (instead_of_slices("slices: [{sources: []}]"), "r.yaml:3: slices[0]: `sources` is missing"),
        (instead_of_slices("modules: {}"), "r.yaml:3: modules: no modules"),
        (
            instead_of_slices("modules:\n  text: {models: [{model: a}]}\n  vision: {}"),
            "r.yaml:5: modules.vision: a module has either `models` or `slices`",
        ),
        (
            instead_of_slices("target: a\nmodules: {text: {models: [{model: a}]}, vision: {models: [{model: a}]}}"),
            "r.yaml:3: target: not supported with slices and modules",
        ),
        (instead_of_slices("modules: {text: {}}"), "modules.text: a module has either `models` or `slices`"),
        (instead_of_slices("modules: {text: {model: []}}"), "modules.text.model: not understood; did you mean"),
    ],
)
def test_refused_naming_key_and_line(change: Callable[[str], str], message: str):
    Path("r.yaml").write_text(change(TA))
    with pytest.raises(InputError) as caught:
        Recipe.load("r.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yaml")


def test_passthrough_takes_one_model_per_slice():
    first = "{model: a, layer_range: [0, 2]}"
    two = STACK.replace(first, f"{first}, {first.replace(': a', ': b')}")
    with pytest.raises(InputError, match=r"slices\[0\]\.sources: passthrough takes one model per slice"):
        Recipe.parse(two)


def test_a_seed_goes_to_methods_that_draw_and_is_noted_otherwise():
    assert "no effect, passthrough draws nothing" in Recipe.parse(STACK).seeded(3).notes[-1]


MODULES = """\
merge_method: task_arithmetic
base_model: base
modules:
  vision.blocks:
    models:
      - {model: a, parameters: {weight: [{filter: attn, value: 0.1}]}}
      - {model: base}
    parameters: {weight: 0.2, lambda: 0.5}
  default:
    slices:
      - sources:
          - {model: base, layer_range: [0, 1]}
          - {model: b, layer_range: [1, 2]}
          - {model: a, layer_range: [0, 1], parameters: {weight: 0.3}}
        parameters: {lambda: [{filter: up, value: 0.7}]}
    parameters: {lambda: 0.6}
parameters: {weight: 0.4}
"""


def test_modules_have_models_and_values_of_their_own():
    recipe = Recipe.parse(MODULES)
    assert [spec.name for spec in recipe.models] == ["a", "b"]
    assert [(module.name, len(module.slices)) for module in recipe.modules] == [("vision.blocks", 1), ("default", 1)]
    assert recipe.slices == ()
    vision, rest = (recipe.part(part) for part in recipe.parts)
    assert (recipe.parts[0].layers, recipe.parts[1].layers) == (None, 1)
    assert (vision.base, [spec.model for spec in vision.models]) == ("base", ["a"])
    assert [spec.model for spec in rest.models] == ["b", "a"]
    assert vision.settings("attn").per_model["weight"] == (0.1,)
    assert vision.settings("mlp").per_model["weight"] == (0.2,)
    assert vision.settings("mlp").shared["lambda_"] == 0.5
    assert rest.settings("mlp").per_model["weight"] == (0.4, 0.3)
    assert rest.settings("up").shared["lambda_"] == 0.7
    assert rest.settings("mlp").shared["lambda_"] == 0.6


def test_a_modules_own_weight_averages_a_base_that_is_not_listed():
    """In a linear merge, as mergekit does: the base takes the weight that stands for all."""
    text = "merge_method: linear\nbase_model: base\nmodules:\n"
    listed = "  {name}: {{models: [{{model: a, parameters: {{weight: 1}}}}]{own}}}\n"
    recipe = Recipe.parse(
        text + listed.format(name="one", own=", parameters: {weight: 2}") + listed.format(name="two", own="")
    )
    one, two = (recipe.part(part) for part in recipe.parts)
    assert one.settings("x").per_model["weight"] == (1.0, 2.0)
    assert [spec.model for spec in two.models] == ["a"]
    alone = Recipe.parse(text + listed.format(name="default", own=", parameters: {weight: 2}"))
    assert alone.modules == ()
    assert alone.settings("x").per_model["weight"] == (1.0, 2.0)
