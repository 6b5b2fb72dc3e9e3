"""Where this project differs from mergekit on purpose: what each does, so that docs/mergekit.md stays true."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from mergekit_checkpoints import LLAMA, VIT, llama_shapes, read_checkpoint, write_checkpoint

import sta_kernels as sk
from sta_kernels.errors import InputError

if TYPE_CHECKING:
    from conftest import Mergekit

CONFIG = {**LLAMA, "num_hidden_layers": 1, "tie_word_embeddings": False}
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
Tensors = dict[str, torch.Tensor]


@dataclass
class Both:
    """Both commands on checkpoints that are written as they are needed."""

    mergekit: Mergekit
    folder: Path

    def model(
        self, name: str, change: Callable[[Tensors], None] | None = None, config: Mapping[str, Any] = CONFIG
    ) -> str:
        """A Llama-like checkpoint of the seed of its name, changed in place."""
        generator = torch.Generator().manual_seed(sum(name.encode()))
        shapes = llama_shapes(config, head=True)
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        if change is not None:
            change(tensors)
        write_checkpoint(self.folder / name, tensors, config)
        return str(self.folder / name)

    def theirs(self, recipe: Mapping[str, Any]) -> Tensors:
        """What mergekit writes."""
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
        self.mergekit.merge(path, self.folder / "theirs")
        return read_checkpoint(self.folder / "theirs")

    def ours(self, recipe: Mapping[str, Any], **options: Any) -> Tensors:
        """What this project writes."""
        sk.merge_checkpoints(recipe, self.folder / "ours", threads=1, **options)
        return read_checkpoint(self.folder / "ours")


@pytest.fixture
def both(mergekit: Mergekit, tmp_path: Path) -> Both:
    return Both(mergekit, tmp_path)


def recipe_of(method: str, *models: str, base: str | None = None, **parameters: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {"merge_method": method, "models": [{"model": model} for model in models]}
    if base is not None:
        recipe["base_model"] = base
    return {**recipe, "parameters": parameters, "dtype": "float32"}


def failure(both: Both, recipe: Mapping[str, Any]) -> str:
    """What mergekit says instead of merging."""
    with pytest.raises(Exception) as caught:  # noqa: PT011  # conftest's class is not importable from here
        both.theirs(recipe)
    assert type(caught.value).__name__ == "MergekitError"
    return str(caught.value)


def fill(value: float) -> Callable[[Tensors], None]:
    return lambda tensors: [tensor.fill_(value) for tensor in tensors.values()] and None


def test_arithmetic_is_float32_whatever_the_dtype(both: Both):
    """`dtype: bfloat16` is what is written; mergekit computes in it too, and rounds weights and sums on the way."""

    def stored(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.bfloat16()

    base, *models = (both.model(name, stored) for name in ("base", "first", "second", "third"))
    recipe = {**recipe_of("task_arithmetic", *models, base=base, weight=0.3), "dtype": "bfloat16"}
    found = {"ours": both.ours(recipe), "theirs": both.theirs(recipe)}
    held = [read_checkpoint(Path(path))[EMBEDDING].double() for path in (base, *models)]
    truth = held[0] + 0.3 * sum(model - held[0] for model in held[1:])
    half = torch.finfo(torch.bfloat16).eps / 2 * 2.0 ** torch.floor(torch.log2(truth.abs()))
    wrong = {who: float(((tensors[EMBEDDING].double() - truth).abs() > 1.001 * half + 1e-6).double().mean())
             for who, tensors in found.items()}  # fmt: skip
    assert wrong["ours"] == 0
    assert wrong["theirs"] > 0.2


def test_equal_magnitudes_keep_the_lowest_index(both: Both):
    """Both keep as many; which, mergekit leaves to an unstable sort."""
    base, model = both.model("base", fill(0)), both.model("model", fill(1))
    recipe = recipe_of("ties", model, base=base, weight=1.0, density=0.25)
    ours, theirs = both.ours(recipe)[EMBEDDING].reshape(-1), both.theirs(recipe)[EMBEDDING].reshape(-1)
    kept = ours.numel() // 4
    assert int(ours.sum()) == int(theirs.sum()) == kept
    assert bool(ours[:kept].all())


def test_counts_come_from_exact_decimals(both: Both):
    """0.29 of 3,200 entries are 928; mergekit's product of floats is just below, and cut to 927."""
    base, model = both.model("base", fill(0)), both.model("model")
    recipe = recipe_of("ties", model, base=base, weight=1.0, density=0.29)
    assert int((both.ours(recipe)[EMBEDDING] != 0).sum()) == 928
    assert int((both.theirs(recipe)[EMBEDDING] != 0).sum()) == 927


def test_della_takes_rows_of_one_entry(both: Both):
    """Their chance is the density; mergekit divides by their range of ranks, which is 0, and stops."""
    narrow = {**CONFIG, "vocab_size": 1}
    base, model = both.model("base", fill(0), narrow), both.model("model", None, narrow)

    def column(path: str) -> None:
        tensors = read_checkpoint(Path(path))
        tensors[EMBEDDING] = tensors[EMBEDDING].reshape(-1, 1).contiguous()
        (Path(path) / "model.safetensors").unlink()
        write_checkpoint(Path(path + "_column"), tensors, narrow)

    for path in (base, model):
        column(path)
    recipe = recipe_of("della", model + "_column", base=base + "_column", weight=1.0, density=0.5, epsilon=0.2)
    assert "p_in >= 0" in failure(both, recipe)
    kept = int((both.ours(recipe)[EMBEDDING] != 0).sum())
    assert 0 < kept < LLAMA["hidden_size"]


def test_sce_weighs_small_task_vectors_too(both: Both):
    """mergekit takes equal weights where the mean squares add up to less than 1e-6, as fine-tuning's often do."""
    base = both.model("base", fill(0))
    models = [both.model(name, fill(value)) for name, value in (("first", 1e-4), ("second", 3e-4))]
    recipe = recipe_of("sce", *models, base=base)
    assert both.theirs(recipe)[NORM][0] == pytest.approx(2e-4, rel=1e-5)
    assert both.ours(recipe)[NORM][0] == pytest.approx((0.1 * 1e-4 + 0.9 * 3e-4), rel=1e-5)


def test_model_stock_measures_small_task_vectors_too(both: Both):
    """mergekit takes 1e-6 for a product of norms below it, so that angles between small vectors look right."""

    def first(tensors: Tensors) -> None:
        fill(0)(tensors)
        tensors[NORM][:4] = torch.tensor([1e-4, 0, 1e-4, 0])

    def second(tensors: Tensors) -> None:
        fill(0)(tensors)
        tensors[NORM][:4] = torch.tensor([1e-4, 1e-4, 0, 0])

    base = both.model("base", fill(0))
    recipe = recipe_of("model_stock", both.model("first", first), both.model("second", second), base=base)
    assert both.ours(recipe)[NORM][0] == pytest.approx(2 / 3 * 1e-4, rel=1e-5)
    assert both.theirs(recipe)[NORM][0] == pytest.approx(0.0198 * 1e-4, rel=1e-2)


def test_model_stock_stays_at_the_base_where_models_disagree(both: Both):
    """A mean cosine below 0 counts as 0; mergekit goes to the other side of the base."""

    def opposed(tensors: Tensors) -> None:
        fill(0)(tensors)
        tensors[NORM][:2] = torch.tensor([-0.5, 1.0])

    def other(tensors: Tensors) -> None:
        fill(0)(tensors)
        tensors[NORM][:2] = torch.tensor([1.0, 0.0])

    base = both.model("base", fill(0))
    recipe = recipe_of("model_stock", both.model("first", opposed), both.model("second", other), base=base)
    assert both.ours(recipe)[NORM][1] == 0
    assert both.theirs(recipe)[NORM][1] < -0.5


@pytest.mark.filterwarnings("ignore:.*equals the base")
def test_multislerp_leaves_what_no_model_changed(both: Both):
    """Three task vectors of zeros have no direction, and mergekit stops."""
    models = [both.model(name, fill(1)) for name in ("base", "first", "second", "third")]
    recipe = recipe_of("multislerp", *models[1:], base=models[0], weight=1.0)
    assert "weighted sum of the input tensors is zero" in failure(both, recipe)
    assert torch.equal(both.ours(recipe)[NORM], torch.ones(LLAMA["hidden_size"]))


def test_weights_that_cancel_do_not_divide(both: Both):
    """A sum of 0 counts as 1; mergekit's linear divides by it."""
    recipe = recipe_of("linear", both.model("first"), both.model("second"))
    for model, weight in zip(recipe["models"], (1.0, -1.0), strict=True):
        model["parameters"] = {"weight": weight}
    assert not both.theirs(recipe)[NORM].isfinite().any()
    held = [read_checkpoint(Path(model["model"]))[NORM] for model in recipe["models"]]
    assert torch.equal(both.ours(recipe)[NORM], held[0] - held[1])


def test_base_keeps_its_zeros(both: Both):
    """Where nothing is added, the base's own bits stay; mergekit adds +0 to −0."""

    def zero(tensors: Tensors) -> None:
        tensors[NORM].fill_(-0.0)

    base, model = both.model("base", zero), both.model("model", zero)
    recipe = recipe_of("ties", model, base=base, weight=1.0)
    assert np.signbit(both.ours(recipe)[NORM].numpy()).all()
    assert not np.signbit(both.theirs(recipe)[NORM].numpy()).any()


def test_values_that_are_not_finite_are_refused(both: Both):
    """mergekit spreads them."""

    def spoil(tensors: Tensors) -> None:
        tensors[NORM][3] = torch.nan

    recipe = recipe_of("linear", both.model("first", spoil), both.model("second"), weight=1.0)
    assert both.theirs(recipe)[NORM].isnan().sum() == 1
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        both.ours(recipe)
    assert both.ours(recipe, allow_nonfinite=True)[NORM].isnan().sum() == 1


def test_keys_that_mean_nothing_are_refused(both: Both):
    """mergekit ignores what it does not know, misspelt words among it."""
    recipe = recipe_of("linear", both.model("first"), both.model("second"), weight=1.0, normalise=False)
    assert torch.isfinite(both.theirs(recipe)[NORM]).all()
    with pytest.raises(InputError, match="normalise"):
        both.ours(recipe)


def test_weight_has_a_default(both: Both):
    """1; mergekit asks for it."""
    recipe = recipe_of("linear", both.model("first"), both.model("second"))
    assert "Missing required parameter weight" in failure(both, recipe)
    assert both.ours(recipe).keys()


@pytest.mark.filterwarnings("ignore:.*ties 'lm_head.weight'")
@pytest.mark.parametrize("untied", [False, True])
def test_tied_heads_stay_tied(both: Both, untied: bool):
    """One model has a head of its own: mergekit writes one, though the configuration ties it.

    Here the result is tied as the base is. A head that differs from its embedding is refused, and left out on demand.
    """
    tied = {**CONFIG, "tie_word_embeddings": True}

    def drop(tensors: Tensors) -> None:
        del tensors[HEAD]

    def copy(tensors: Tensors) -> None:
        tensors[HEAD] = tensors[EMBEDDING].clone()

    base = both.model("base", drop, tied)
    model = both.model("first", None if untied else copy, {**tied, "tie_word_embeddings": not untied})
    recipe = recipe_of("task_arithmetic", model, base=base, weight=0.5)
    theirs = both.theirs(recipe)
    assert torch.equal(theirs[HEAD], theirs[EMBEDDING]) != untied
    assert json.loads((both.folder / "theirs" / "config.json").read_text())["tie_word_embeddings"]
    if untied:
        with pytest.raises(InputError, match=rf"first: '{HEAD}' and .* differ, but .*base ties them"):
            both.ours(recipe)
        recipe = {**recipe, "exclude": [HEAD]}
    ours = both.ours(recipe)
    assert HEAD not in ours
    assert torch.equal(ours[EMBEDDING], theirs[EMBEDDING])


def test_heads_that_are_missing_though_not_tied_are_refused(both: Both):
    """mergekit takes the embedding, whatever a model's configuration says."""

    def drop(tensors: Tensors) -> None:
        del tensors[HEAD]

    base, model = both.model("base"), both.model("first", drop)
    recipe = recipe_of("task_arithmetic", model, base=base, weight=1.0)
    embedding = read_checkpoint(Path(model))[EMBEDDING]
    assert torch.allclose(both.theirs(recipe)[HEAD], embedding, atol=1e-5)
    with pytest.raises(InputError, match=rf"first: no entry '{HEAD}'"):
        both.ours(recipe)


def test_all_of_the_base_is_kept(both: Both):
    """mergekit writes what its table of an architecture lists, and drops the rest."""

    def add(tensors: Tensors) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    recipe = recipe_of("linear", both.model("first", add), both.model("second", add), weight=1.0)
    extra = both.ours(recipe).keys() - both.theirs(recipe).keys()
    assert extra == {"model.layers.0.self_attn.rotary_emb.inv_freq"}


def test_integers_come_from_the_base(both: Both):
    """With a warning where a model's are others; mergekit stops there."""
    config = {**VIT, "num_hidden_layers": 1, "architectures": ["Unheard"], "model_type": "vit"}

    def steps(count: int) -> Callable[[Tensors], None]:
        def change(tensors: Tensors) -> None:
            tensors.clear()
            tensors["blocks.0.weight"] = torch.ones(4)
            tensors["blocks.0.steps"] = torch.tensor([count])

        return change

    llama = {**CONFIG}
    base = both.model("base", steps(1), llama)
    model = both.model("model", steps(2), llama)
    for path in (base, model):
        (Path(path) / "config.json").write_text(json.dumps(config))
    recipe = recipe_of("linear", model, base, weight=1.0)
    recipe["base_model"] = base
    del recipe["dtype"]
    assert "differs between inputs" in failure(both, recipe)
    with pytest.warns(UserWarning, match="steps"):
        assert both.ours(recipe)["blocks.0.steps"].item() == 1


def test_shapes_that_differ_are_refused_by_both(both: Both):
    """Both name the tensor; mergekit's way out, cutting rows unseen, is none here."""
    larger = {**CONFIG, "vocab_size": 104}
    recipe = recipe_of("linear", both.model("first"), both.model("second", None, larger), weight=1.0)
    assert "Tensor size mismatch" in failure(both, recipe)
    with pytest.raises(InputError, match=r"lm_head|embed_tokens"):
        both.ours(recipe)


def test_names_are_those_of_the_files(both: Both):
    """Where mergekit has no table, it takes the names of transformers' own classes.

    Those of vision transformers changed with transformers 5. Files with the old names, as most are, lose their layers.
    """
    config = {**VIT, "num_hidden_layers": 1}
    shapes = both.mergekit.ask("names", config=config, model="ViTForImageClassification")
    new = {name: torch.randn(shape) for name, shape in shapes.items()}
    old_names = {
        name: name.replace("vit.layers.", "vit.encoder.layer.")
        .replace("attention.q_proj", "attention.attention.query")
        .replace("attention.k_proj", "attention.attention.key")
        .replace("attention.v_proj", "attention.attention.value")
        .replace("attention.o_proj", "attention.output.dense")
        .replace("mlp.fc1", "intermediate.dense")
        .replace("mlp.fc2", "output.dense")
        for name in new
    }
    if old_names.keys() == set(old_names.values()):
        pytest.skip("the installed transformers has not renamed anything")
    for folder in ("first", "second"):
        write_checkpoint(both.folder / folder, {old_names[name]: tensor for name, tensor in new.items()}, config)
    recipe = recipe_of("linear", str(both.folder / "first"), str(both.folder / "second"), weight=1.0)
    ours, theirs = both.ours(recipe), both.theirs(recipe)
    assert ours.keys() == set(old_names.values())
    lost = {name for name in old_names.values() if ".layer." in name}
    assert lost
    assert not theirs.keys() & lost
    for name in theirs.keys() & ours.keys():
        assert torch.equal(ours[name], theirs[name])
