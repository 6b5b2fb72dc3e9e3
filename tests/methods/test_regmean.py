"""RegMean as a method: worked example, float64 oracle, files as in memory, what has no Gram matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels as sk
from sta_kernels.kernels.reference.literal import regmean

State = dict[str, torch.Tensor]
SHAPES = {
    "a.weight": (300, 120),
    "a.bias": (300,),
    "b.weight": (40, 300),
    "embed.weight": (30, 20),
    "conv.weight": (4, 3, 2, 2),
}
LAYERS = ("a.weight", "b.weight")
W = (torch.eye(2), torch.tensor([[3.0, 2], [0, 1]]))
G = (torch.tensor([[2.0, 1], [1, 2]]), torch.tensor([[1.0, 0], [0, 3]]))


def models_and_grams(n_models: int, dtype: torch.dtype = torch.float32) -> tuple[list[State], list[State]]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    models = [{name: normal(*shape).to(dtype) for name, shape in SHAPES.items()} for _ in range(n_models)]
    inputs = [
        {
            name: normal(1000, SHAPES[name][1]) * (0.2 + torch.rand(SHAPES[name][1], generator=generator))
            for name in LAYERS
        }
        for _ in models
    ]
    return models, [{name: x.T @ x / len(x) for name, x in each.items()} for each in inputs]


def recipe_of(folder: Path, models: list[State], grams: list[State], **keys: Any) -> dict[str, Any]:
    entries = []
    for i, (model, gram) in enumerate(zip(models, grams, strict=True)):
        path = folder / f"model{i}"
        path.mkdir(exist_ok=True)
        save_file(model, path / "model.safetensors")
        save_file(gram, path / "gram.safetensors")
        entries.append({"model": str(path), "parameters": {"importance": str(path / "gram.safetensors")}})
    return {"merge_method": "regmean", "models": entries, **keys}


def literal(models: list[State], grams: list[State], name: str, *arguments: Any) -> np.ndarray[Any, Any]:
    return regmean.regmean_literal(
        np.stack([model[name].double().numpy() for model in models]),
        np.stack([gram[name].double().numpy() for gram in grams]),
        *arguments,
    )


@pytest.mark.parametrize(("ratio", "expected"), [(1, [[1.285714, 1.142857], [0, 1]]), (0, [[1.666667, 1.2], [0, 1]])])
def test_worked_example(ratio: float, expected: list[list[float]]):
    models = [{"w": weight, "b": torch.tensor(bias)} for weight, bias in zip(W, ([1.0, 2], [3.0, 6]), strict=True)]
    merged = sk.merge(None, models, method="regmean", importances=[{"w": gram} for gram in G], off_diagonal=ratio)
    np.testing.assert_allclose(merged["w"], expected, rtol=1e-6, atol=1e-6)
    assert merged["b"].tolist() == [2, 4]
    np.testing.assert_allclose(sk.ops.regmean(None, W, G, off_diagonal=ratio), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 0.9])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_agrees_with_the_oracle(ratio: float, weights: list[float] | None):
    models, grams = models_and_grams(3)
    merged = sk.merge(None, models, method="regmean", importances=grams, off_diagonal=ratio, weight=weights)
    for name in LAYERS:
        expected = literal(models, grams, name, ratio, weights, 1e-7)
        np.testing.assert_allclose(merged[name], expected, atol=1e-6, err_msg=name)
    average = sk.merge(None, models, method="linear", weight=weights)
    for name in SHAPES.keys() - set(LAYERS):
        assert torch.equal(merged[name], average[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_and_memory_and_any_number_of_threads(tmp_path: Path, dtype: torch.dtype):
    models, grams = models_and_grams(3, dtype)
    recipe = recipe_of(tmp_path, models, grams)
    expected = sk.merge(None, models, method="regmean", importances=grams, threads=2)
    for threads in (1, 3):
        manifest = sk.merge_checkpoints(recipe, tmp_path / f"out{threads}", threads=threads)
        assert isinstance(manifest, sk.Manifest)
        written = load_file(tmp_path / f"out{threads}" / "model.safetensors")
        assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    assert sk.verify(tmp_path / "out1") == []


def test_a_layer_that_is_wider_than_tall(tmp_path: Path):
    """Its Gram matrices are far larger than the layer, and have to fit a worker's buffers."""
    models = [{"w": torch.randn(8, 2048, generator=torch.Generator().manual_seed(i))} for i in range(2)]
    inputs = [torch.randn(9, 2048, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    grams = [{"w": x.T @ x / 9} for x in inputs]
    recipe = recipe_of(tmp_path, models, grams)
    plan = sk.merge_checkpoints(recipe, tmp_path / "out", dry_run=True)
    assert isinstance(plan, sk.Plan)
    assert plan.budget.arena >= 2 * 4 * 2048 * 2048
    sk.merge_checkpoints(recipe, tmp_path / "out", threads=1)
    merged = sk.merge(None, models, method="regmean", importances=grams)["w"]
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["w"], merged)


@pytest.mark.parametrize("gram", [torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 0, 0])), torch.eye(3)])
def test_without_jitter(gram: torch.Tensor):
    """A sum that is singular gets the least that makes it definite; one that is not gets none."""
    models = [{"w": torch.randn(4, 3, generator=torch.Generator().manual_seed(i))} for i in range(2)]
    merged = sk.merge(None, models, method="regmean", importances=[{"w": gram}] * 2, jitter=0)["w"]
    torch.testing.assert_close(merged, (models[0]["w"] + models[1]["w"]) / 2)
    with pytest.raises(sk.InputError, match=r"jitter: expected a number, zero or more, got -0.1"):
        sk.merge(None, models, method="regmean", importances=[{"w": gram}] * 2, jitter=-0.1)


def test_the_plan_says_what_is_averaged(tmp_path: Path):
    recipe = recipe_of(tmp_path, *models_and_grams(2))
    plan = sk.merge_checkpoints(recipe, tmp_path / "out", dry_run=True)
    assert isinstance(plan, sk.Plan)
    assert [note for note in plan.notes if "averaged" in note] == ["no Gram matrix for 'embed.weight': averaged"]
    assert plan.tier == "C"
    read = {job.name: job.bytes_read for job in plan.jobs}
    assert read["b.weight"] == 2 * 4 * (40 * 300 + 300 * 300)
    assert read["a.bias"] == 2 * 4 * 300


def test_split_parts_share_a_gram_matrix(tmp_path: Path):
    models, grams = models_and_grams(2)
    whole = sk.merge(None, models, method="regmean", importances=grams)["a.weight"]
    split = {"a.weight": 3}
    parts = sk.merge(None, models, method="regmean", importances=grams, split=split)["a.weight"]
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    sk.merge_checkpoints(recipe_of(tmp_path, models, grams, split=split), tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["a.weight"], parts)


def test_inputs_that_no_task_uses_are_averaged():
    models, grams = models_and_grams(2)
    for gram in grams:
        gram["b.weight"][7] = 0
        gram["b.weight"][:, 7] = 0
    merged = sk.merge(None, models, method="regmean", importances=grams)["b.weight"][:, 7]
    torch.testing.assert_close(merged, (models[0]["b.weight"][:, 7] + models[1]["b.weight"][:, 7]) / 2)
    for gram in grams:
        gram["b.weight"].zero_()
    merged = sk.merge(None, models, method="regmean", importances=grams)["b.weight"]
    torch.testing.assert_close(merged, (models[0]["b.weight"] + models[1]["b.weight"]) / 2)


def test_rounded_gram_matrices_of_few_rows_are_solved():
    """Eight rows for 300 inputs, in bfloat16: the sum has eigenvalues well below zero."""
    models, _ = models_and_grams(2)
    inputs = [torch.randn(8, 300, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    grams = [{"b.weight": (x.T @ x / 8).bfloat16()} for x in inputs]
    merged = sk.merge(None, models, method="regmean", importances=grams)["b.weight"]
    for x, model in zip(inputs, models, strict=True):
        answers = x @ model["b.weight"].T
        assert (x @ merged.T - answers).norm() < 0.2 * answers.norm()


def test_tied_layers(tmp_path: Path):
    models, grams = models_and_grams(2)
    shared = [{"a.weight": model["a.weight"], "head.weight": model["a.weight"]} for model in models]
    given = [{name: gram["a.weight"].clone() for name in ("a.weight", "head.weight")} for gram in grams]
    merged = sk.merge(None, shared, method="regmean", importances=given)
    assert merged["head.weight"] is merged["a.weight"]
    given[1]["head.weight"] += 1
    with pytest.raises(sk.InputError, match=r"importances\[1\]: 'head.weight' and 'a.weight' differ"):
        sk.merge(None, shared, method="regmean", importances=given)


def test_refusals(tmp_path: Path):
    models, grams = models_and_grams(2)

    def refused(message: str, given: list[State]) -> None:
        with pytest.raises(sk.InputError, match=message):
            sk.merge(None, models, method="regmean", importances=given)
        recipe = recipe_of(tmp_path, models, given)
        with pytest.raises(sk.InputError, match=message):
            sk.merge_checkpoints(recipe, tmp_path / "out")

    refused(r"no Gram matrix for 'a.weight'", [grams[0], {"b.weight": grams[1]["b.weight"]}])
    refused(
        r"'a.bias' has shape \[300\], but a parameter of shape \[300\] has no Gram matrix",
        [{**grams[0], "a.bias": torch.ones(300)}, {**grams[1], "a.bias": torch.ones(300)}],
    )
    refused(
        r"'b.weight' has shape \[40, 300\], but a parameter of shape \[40, 300\] has a Gram matrix of shape "
        r"\[300, 300\]",
        [{"b.weight": models[0]["b.weight"]}, {"b.weight": grams[1]["b.weight"]}],
    )
    refused(r"Gram matrix of 'c.weight', but there is no such entry", [{**gram, "c.weight": G[0]} for gram in grams])
    refused(
        r"'a.weight': the sum of its Gram matrices is not positive definite",
        [{k: -v for k, v in g.items()} for g in grams],
    )
    bad = [grams[0], {**grams[1], "b.weight": grams[1]["b.weight"].clone()}]
    bad[1]["b.weight"][2, 5] = torch.inf
    refused(r"'b.weight' is inf at \[2, 5\]", bad)
    with pytest.raises(ValueError, match=r"importances\[1\]: shape \[2, 3\], .* a Gram matrix of shape \[2, 2\]"):
        sk.ops.regmean(None, W, [G[0], torch.ones(2, 3)])


def test_a_file_that_says_it_holds_something_else_is_refused(tmp_path: Path):
    model = torch.nn.Linear(4, 4, bias=False)
    importance = sk.importance(model, measure="amp")
    recipe = recipe_of(tmp_path, [dict(model.state_dict())] * 2, [{"weight": torch.eye(4)}] * 2)
    importance.save(tmp_path / "model1" / "gram.safetensors")
    with pytest.raises(sk.InputError, match=r"gram.safetensors: holds amp, and regmean takes gram"):
        sk.merge_checkpoints(recipe, tmp_path / "out")


def test_a_model_without_gram_matrices_is_refused(tmp_path: Path):
    models, grams = models_and_grams(2)
    recipe = recipe_of(tmp_path, models, grams)
    del recipe["models"][1]["parameters"]
    with pytest.raises(
        sk.InputError, match=r"which regmean needs .* FILE\}` to the model \(sk\.GramMatrices writes it\)$"
    ):
        sk.merge_checkpoints(recipe, tmp_path / "out")
    with pytest.raises(sk.InputError, match=r"regmean: importances: none given \(sk\.GramMatrices makes them\)$"):
        sk.merge(None, models, method="regmean")
