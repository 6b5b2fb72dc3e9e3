"""Whole recipes: what they mean, and that every key is understood or refused by name and line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

import sta_kernels
from sta_kernels.errors import InputError
from sta_kernels.recipe import Recipe


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a base, models a, b, c and their importance files."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a", "b", "c"):
        Path(name).mkdir()
        Path(name, "importance.safetensors").touch()
    return tmp_path


STA = """\
merge_method: sta
base_model: base/
models:
  - model: a/
    parameters: {importance: a/importance.safetensors}
  - model: b/
    parameters: {importance: b/importance.safetensors, weight: 0.5}
parameters: {p: 0.3, measure: lp, normalise: mean}
exclude: ["logit_scale"]
split: {"*.in_proj_weight": 3}
dtype: float32
"""


def test_the_recipe_of_the_documentation():
    recipe = Recipe.parse(STA)
    assert (recipe.method_name, recipe.base, recipe.target, recipe.dtype) == ("sta", "base/", None, "F32")
    assert [spec.model for spec in recipe.models] == ["a/", "b/"]
    assert [spec.importance for spec in recipe.models] == ["a/importance.safetensors", "b/importance.safetensors"]
    assert (recipe.exclude, recipe.split, recipe.notes) == (("logit_scale",), {"*.in_proj_weight": 3}, ())
    settings = recipe.settings("any")
    assert (settings.shared["p"], settings.shared["normalise"]) == (0.3, "mean")
    assert settings.per_model["weight"] == (1.0, 0.5)


def test_load_keeps_text_and_path():
    Path("r.yaml").write_text(STA)
    recipe = Recipe.load("r.yaml")
    assert (recipe.text, recipe.path) == (STA, Path("r.yaml"))
    assert recipe.models[1].where == "r.yaml:6: models[1].model"


def test_a_mapping_means_the_same_as_its_text():
    mapping = {
        "merge_method": "task_arithmetic",
        "base_model": Path("base"),
        "models": [{"model": "a", "parameters": {"weight": [0, 1]}}, {"model": "b"}],
        "parameters": {"lambda": 0.4},
    }
    recipe = Recipe.parse(mapping)
    again = Recipe.parse(recipe.text)
    for depth in (0, Fraction(1, 2), 1):
        assert recipe.settings("x", depth) == again.settings("x", depth)
    assert recipe.settings("x", 1).per_model["weight"] == (1.0, 1.0)
    assert recipe.settings("x", 0).shared["lambda_"] == 0.4


TA = """\
merge_method: task_arithmetic
base_model: base
models:
  - model: a
    parameters: {{weight: {a}}}
  - model: b
    parameters: {{weight: {b}}}
parameters: {{weight: {everywhere}, normalize: true}}
"""


def test_model_before_global_before_default():
    text = TA.format(a="0.2", b="[{filter: attn, value: 0.3}]", everywhere="[{filter: w, value: 0.7}]")
    recipe = Recipe.parse(text)
    assert recipe.settings("attn.w").per_model["weight"] == (0.2, 0.3)
    assert recipe.settings("mlp.w").per_model["weight"] == (0.2, 0.7)
    assert recipe.settings("bias").per_model["weight"] == (0.2, 1.0)


def test_gradient_of_p_over_the_depth():
    recipe = Recipe.parse(STA.replace("p: 0.3", "p: [0.1, 0.5]"))
    assert [recipe.settings("x", Fraction(i, 2)).shared["p"] for i in range(3)] == [0.1, 0.3, 0.5]


def test_equal_values_share_one_settings_object():
    recipe = Recipe.parse(STA)
    assert recipe.settings("x", 0.1) is recipe.settings("y", 0.9)


def test_keep_instead_of_p_by_filter_falls_back_to_p():
    text = STA.replace("p: 0.3", "keep: [{filter: attn, value: 2}]")
    recipe = Recipe.parse(text)
    assert recipe.settings("attn").shared["keep"] == 2
    assert (recipe.settings("mlp").shared["keep"], recipe.settings("mlp").shared["p"]) == (None, 0.7)


@pytest.mark.parametrize("method", ["task_arithmetic", "sta"])
def test_the_base_among_the_models_is_no_task(method: str):
    amp = "parameters: {measure: amp}\n" if method == "sta" else ""
    recipe = Recipe.parse(
        f"merge_method: {method}\nbase_model: base/\nmodels:\n  - model: ./base\n  - model: a\n  - model: b\n{amp}"
    )
    assert [spec.model for spec in recipe.models] == ["a", "b"]
    assert recipe.notes == ()


def test_values_given_to_the_base_are_noted():
    text = (
        "merge_method: task_arithmetic\nbase_model: base\n"
        "models: [{model: base, parameters: {weight: 1}}, {model: a}, {model: b}]\n"
    )
    assert Recipe.parse(text).notes == (
        "recipe:3: models[0].model: the base, not a task; its parameters change nothing",
    )


LINEAR = "merge_method: linear\n{base}models:\n  - {{model: a}}\n  - {{model: b}}\n{end}"


def test_linear_needs_no_base():
    recipe = Recipe.parse(LINEAR.format(base="", end=""))
    assert (recipe.base, len(recipe.models)) == (None, 2)


def test_linear_with_a_base_averages_it_only_where_mergekit_does():
    assert len(Recipe.parse(LINEAR.format(base="base_model: base\n", end="")).models) == 2
    listed = Recipe.parse(LINEAR.format(base="base_model: a\n", end="parameters: {weight: 1}\n"))
    assert [spec.model for spec in listed.models] == ["a", "b"]
    added = Recipe.parse(LINEAR.format(base="base_model: base\n", end="parameters: {weight: 2}\n"))
    assert [spec.model for spec in added.models] == ["a", "b", "base"]
    assert added.settings("x").per_model["weight"] == (2.0, 2.0, 2.0)
    assert "averaged as one more model" in added.notes[0]


def test_the_base_joins_no_average_that_needs_data_of_it(tmp_path):
    (tmp_path / "f").touch()
    entries = "".join(f"  - model: {m}\n    parameters: {{importance: {tmp_path / 'f'}}}\n" for m in ("a", "b"))
    text = f"merge_method: fisher\nbase_model: base\nmodels:\n{entries}parameters: {{weight: 1.0}}\n"
    assert [spec.model for spec in Recipe.parse(text).models] == ["a", "b"]


def test_task_arithmetic_takes_mergekits_idle_keys_and_says_so():
    recipe = Recipe.parse(
        "merge_method: task_arithmetic\nbase_model: base\nmodels:\n"
        "  - model: a\n    parameters:\n      weight: 1\n      density: [1, 0.5]\n"
        "parameters: {int8_mask: true, rescale: false}\n"
    )
    assert len(recipe.notes) == 2
    assert all("without effect on task_arithmetic" in note for note in recipe.notes)


def test_what_mergekit_leaves_unread_is_noted_and_what_it_does_not_know_is_refused():
    text = (
        "merge_method: {}\nbase_model: base\nmodels:\n"
        "  - model: a\n    parameters: {{weight: 1, lambda: 2, {}: 0.5}}\n  - model: b\n    parameters: {{weight: 1}}\n"
    )
    under_a_model, of_another = Recipe.parse(text.format("ties", "gamma")).notes
    assert "parameters.lambda: without effect under a single model" in under_a_model
    assert "parameters.gamma: without effect on ties, here as in mergekit" in of_another
    with pytest.raises(InputError, match=r"parameters.gama: not understood"):
        Recipe.parse(text.format("ties", "gama"))
    with pytest.raises(InputError, match=r"parameters.lambda: lambda is one value for all models"):
        Recipe.parse(text.format("pcb", "gamma"))  # mergekit has no such method, so nobody expects this of it


def test_forgetting_from_a_target():
    text = (
        "merge_method: sta_forget\nbase_model: base\ntarget: c\n"
        "models: [{model: a, parameters: {importance: a/importance.safetensors}}]\nparameters: {p: 0.6}\n"
    )
    recipe = Recipe.parse(text)
    assert recipe.target == "c"
    assert recipe.settings("x").shared["p"] == 0.6


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("", None),
        ("dtype: bfloat16", "BF16"),
        ("dtype: torch.float16", "F16"),
        ("dtype: bfloat16\nout_dtype: float64", "F64"),
        ("out_dtype: float16\ndtype: float32", "F16"),
        ("dtype:", None),
    ],
)
def test_what_is_written(lines: str, code: str | None):
    assert Recipe.parse(LINEAR.format(base="", end=lines + "\n")).dtype == code


@pytest.mark.parametrize(
    "line", ["tokenizer_source: base", "tokenizer: {source: base}", "tokenizer_source:", "tokenizer:", "chat_template:"]
)
def test_the_bases_tokenizer_may_be_named(line: str):
    Recipe.parse(LINEAR.format(base="", end=line + "\n"))


def drop(key: str) -> Callable[[str], str]:
    return lambda text: "\n".join(line for line in text.split("\n") if not line.startswith(key))


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("merge_method"), "r.yaml: merge_method is missing; one of "),
        (drop("base_model"), "base_model is missing; sta merges differences"),
        (lambda text: text.split("models:")[0], "models is missing"),
        (swap("merge_method: sta", "merge_method: stab"), "r.yaml:1: merge_method: unknown method 'stab' (did you"),
        (swap("merge_method: sta", "merge_method: ramplus_tl"), "ramplus_tl is a mergekit method that this version"),
        (swap("merge_method: sta", "merge_method: [sta]"), "r.yaml:1: merge_method: expected a string, not a list"),
        (swap("exclude:", "exlude:"), "r.yaml:9: exlude: not understood; did you mean `exclude`?"),
        (swap("exclude:", "xyzzy:"), "r.yaml:9: xyzzy: not understood; known: merge_method,"),
        (swap("weight: 0.5", "wieght: 0.5"), "r.yaml:7: models[1].parameters.wieght: not understood; did you mean `we"),
        (swap("p: 0.3", "q: 0.3"), "r.yaml:8: parameters.q: not understood"),
        (swap("p: 0.3", "p: 1.3"), "r.yaml:8: parameters.p: expected a number in [0, 1], got 1.3"),
        (swap("p: 0.3", "p: 0.3, keep: 1"), "r.yaml: sta: give p or keep, not both"),
        (swap("p: 0.3", "keep: 3"), "r.yaml: sta: keep: 3 entries of 2"),
        (swap("weight: 0.5", "p: 0.5"), "r.yaml:7: models[1].parameters.p: p is one value for all models"),
        (swap("p: 0.3", "importance: a"), "r.yaml:8: parameters.importance: each model has its own importance"),
        (swap("b/importance", "b/nothing"), "r.yaml:7: models[1].parameters.importance: 'b/nothing.s"),
        (swap("model: a/", "model: d/"), "r.yaml:4: models[0].model: 'd/': no such file or folder"),
        (swap("model: a/", "modle: a/"), "r.yaml:4: models[0].modle: not understood; did you mean `model`?"),
        (swap("model: a/", "model: a/+x/y/z"), "r.yaml:4: models[0].model: LoRA adapter 'x/y/z' of a/+x/y/z: no"),
        (swap("dtype: float32", "dtype: float8"), "r.yaml:11: dtype: 'float8' cannot be written; known: float32,"),
        (swap("dtype: float32", "dtype: fp16"), "r.yaml:11: dtype: 'fp16' cannot be written; did you mean `float16`?"),
        (swap("dtype: float32", "target: a"), "r.yaml:11: target: sta has no target"),
        (lambda _: "base_model: a\ngate_mode: hidden\nexperts: []", "r.yaml:2: gate_mode: a key of mergekit-moe"),
        (swap("dtype: float32", "chat_template: llama3"), "r.yaml:11: chat_template: 'llama3': mergekit's template"),
        (swap("dtype: float32", "chat_template: chat"), "r.yaml:11: chat_template: 'chat': no template's name; give"),
        (swap("dtype: float32", "slices: []"), "r.yaml:11: slices: a recipe has one of models, slices, modules"),
        (swap("dtype: float32", "modules: {}"), "r.yaml:11: modules: a recipe has one of"),
        (swap("dtype: float32", "tokenizer_source: union"), "r.yaml:11: tokenizer_source: only the base's tokenizer"),
        (swap("dtype: float32", "tokenizer_source: a"), "r.yaml:11: tokenizer_source: only the base's tokenizer"),
        (swap("dtype: float32", "tokenizer: {}"), "r.yaml:11: tokenizer: mergekit takes the union"),
        (swap("dtype: float32", "tokenizer: {source: base, tokens: {}}"), "r.yaml:11: tokenizer.tokens: only the"),
        (swap("dtype: float32", "tokenizer_source: base\ntokenizer: {source: base}"), "r.yaml:12: tokenizer: token"),
        (swap("_weight\": 3", "_weight\": 0"), "r.yaml:10: split.*.in_proj_weight: expected the number of equal parts"),
        (swap("_weight\": 3", "_weight\": true"), "expected the number of equal parts, not True"),
        (swap('["logit_scale"]', "{a: 1}"), "r.yaml:9: exclude: expected a list, not a mapping"),
        (swap('["logit_scale"]', "[1]"), "r.yaml:9: exclude[0]: expected a string, not 1"),
        (lambda text: "- a\n- b\n", "r.yaml: a recipe is a mapping of keys to values, not a list"),
        (lambda text: "", "a recipe is a mapping of keys to values, not nothing"),
        (lambda text: text.split("models:")[0] + "models: []\n", "r.yaml: sta: 0 models"),
    ],
)  # fmt: skip
def test_refused_naming_key_and_line(change: Callable[[str], str], message: str):
    Path("r.yaml").write_text(change(STA))
    with pytest.raises(InputError) as caught:
        Recipe.load("r.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("r.yaml")


def test_importance_is_no_key_of_methods_that_read_none():
    text = LINEAR.format(base="", end="").replace("{model: a}", "{model: a, parameters: {importance: a}}")
    with pytest.raises(InputError, match=r"models\[0\]\.parameters\.importance: not understood"):
        Recipe.parse(text)


def test_a_missing_importance_names_model_and_way_out():
    text = STA.replace("importance: b/importance.safetensors, ", "")
    with pytest.raises(InputError, match=r"recipe:6: models\[1\]\.model: no importance.*`measure: amp`"):
        Recipe.parse(text).settings("x")
    assert Recipe.parse(text.replace("measure: lp", "measure: amp")).settings("x").shared["measure"] == "amp"


def test_values_that_clash_at_one_tensor_name_it():
    recipe = Recipe.parse(STA.replace("p: 0.3", "keep: [{filter: attn, value: 3}]"))
    with pytest.raises(InputError, match=r"^l\.0\.attn: sta: keep: 3 entries of 2"):
        recipe.settings("l.0.attn")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text (byte 0)"),
        (b"x" * ((1 << 20) + 1), "a recipe has at most 1,048,576 bytes"),
    ],
)
def test_files_that_are_no_recipe(data: bytes, message: str):
    Path("model.bin").write_bytes(data)
    with pytest.raises(InputError) as caught:
        Recipe.load("model.bin")
    assert message in str(caught.value)


def test_files_that_cannot_be_read():
    for path in ("nowhere.yaml", "a"):
        with pytest.raises(InputError, match=f"^{path}: cannot read the recipe: "):
            Recipe.load(path)


def test_a_byte_order_mark_is_skipped():
    Path("r.yaml").write_bytes(b"\xef\xbb\xbf" + STA.encode())
    assert Recipe.load("r.yaml").method_name == "sta"


def test_reading_a_recipe_imports_no_heavy_library():
    Path("r.yaml").write_text(STA)
    code = (
        "import sys; from sta_kernels import Recipe; Recipe.load('r.yaml').settings('x'); "
        "print(sorted({'torch', 'triton', 'transformers', 'huggingface_hub', 'pydantic'} & set(sys.modules)))"
    )
    root = str(Path(sta_kernels.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
