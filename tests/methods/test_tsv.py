"""TSV-M and TSV-C as methods: the worked example, the float64 oracle, files as in memory, any number of threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels as sk
from sta_kernels.kernels.reference.literal import tsv
from sta_kernels.methods import get
from sta_kernels.methods.base import Place, Settings

State = dict[str, torch.Tensor]
SHAPES = {
    "layers.0.weight": (96, 130),
    "layers.0.bias": (96,),
    "layers.1.weight": (170, 60),
    "conv.weight": (8, 3, 4, 4),
    "text_projection": (40, 40),
    "thin.weight": (2, 30),
}


def states(n_models: int, dtype: torch.dtype = torch.float32) -> tuple[State, list[State]]:
    generator = torch.Generator().manual_seed(5)

    def normal(shape: tuple[int, ...], scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    base = {name: normal(shape, 0.5).to(dtype) for name, shape in SHAPES.items()}
    models = [
        {name: (base[name].float() + normal(SHAPES[name], 0.1)).to(dtype) for name in SHAPES} for _ in "x" * n_models
    ]
    return base, models


def from_files(folder: Path, base: State, models: list[State], method: str, threads: int = 2, **keys: Any) -> State:
    paths = [folder / name for name in ("base", *(f"model{i}" for i in range(len(models))))]
    for path, tensors in zip(paths, (base, *models), strict=True):
        path.mkdir(exist_ok=True)
        save_file(tensors, path / "model.safetensors")
    recipe = {
        "merge_method": method,
        "base_model": str(paths[0]),
        "models": [{"model": str(path)} for path in paths[1:]],
        **keys,
    }
    out = folder / f"out{threads}"
    sk.merge_checkpoints(recipe, out, threads=threads)
    return load_file(out / "model.safetensors")


def stacked(models: list[State], name: str) -> np.ndarray[Any, Any]:
    return np.stack([model[name].double().numpy() for model in models])


def test_worked_example():
    base = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
    models = [
        {"weight": torch.tensor([[3.0, 0], [0, 1]]), "bias": torch.tensor([1.0, 2])},
        {"weight": torch.ones(2, 2), "bias": torch.tensor([3.0, 6])},
    ]
    merged = sk.merge(base, models, method="tsv_m")
    np.testing.assert_allclose(merged["weight"], [[2.853553, -0.353553], [-0.353553, 2.146447]], atol=1e-6)
    assert merged["bias"].tolist() == [2, 4]
    restored = sk.merge(base, models, method="tsv_c", task=1)
    np.testing.assert_allclose(restored["weight"], np.ones((2, 2)), rtol=1e-6)
    assert restored["bias"].tolist() == [3, 6]


@pytest.mark.parametrize("lambda_", [1.0, 0.6])
def test_merging_agrees_with_the_oracle(lambda_: float):
    base, models = states(4)
    merged = sk.merge(base, models, method="tsv_m", lambda_=lambda_)
    for name, tensor in merged.items():
        is_matrix = tensor.dim() == 2 and name != "text_projection"
        oracle = tsv.tsv_m_literal if is_matrix else tsv.tsv_mean_literal
        expected = oracle(base[name].numpy(), stacked(models, name), lambda_)
        # Making 4·24 vectors of 96 elements orthonormal magnifies errors by what they lack of being so.
        np.testing.assert_allclose(tensor, expected, atol=4e-5 if is_matrix else 1e-6, err_msg=name)
    assert torch.equal(merged["thin.weight"], base["thin.weight"])  # four tasks, two rows: nothing is retained


@pytest.mark.parametrize(("ratio", "exact"), [(None, "1/3"), (0.29, "0.29"), (1, "1"), (0, "0")])
def test_restoring_agrees_with_the_oracle(ratio: float | None, exact: str):
    base, models = states(3)
    restored = sk.merge(base, models, method="tsv_c", task=2, ratio=ratio)
    for name, tensor in restored.items():
        if tensor.dim() != 2:
            assert torch.equal(tensor, models[2][name]), name
            continue
        factors = tsv.tsv_c_compress_literal(base[name].numpy(), models[2][name].numpy(), exact)
        expected = tsv.tsv_c_decompress_literal(base[name].numpy(), *factors)
        np.testing.assert_allclose(tensor, expected, atol=2e-6, err_msg=name)


def test_signs_of_singular_vectors_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    base, models = states(3)
    expected = sk.merge(base, models, method="tsv_m")
    plain = torch.linalg.svd

    def flipped(matrix: torch.Tensor, **keys: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, values, right = plain(matrix, **keys)
        signs = torch.tensor([(-1.0) ** (i % 3) for i in range(len(values))])
        return left * signs, values, signs[:, None] * right

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    for name, tensor in sk.merge(base, models, method="tsv_m").items():
        torch.testing.assert_close(tensor, expected[name], atol=4e-5, rtol=0)


def test_a_task_that_left_a_tensor_alone_takes_no_part():
    base, models = states(3)
    models[1]["layers.1.weight"] = base["layers.1.weight"].clone()
    merged = sk.merge(base, models, method="tsv_m")["layers.1.weight"]
    shown = stacked([models[0], models[2]], "layers.1.weight") - base["layers.1.weight"].numpy()
    factors = [np.linalg.svd(tau, full_matrices=False) for tau in shown]
    left = tsv.polar_literal(np.concatenate([u[:, :20] for u, _, _ in factors], axis=1))
    right = tsv.polar_literal(np.concatenate([v[:20] for _, _, v in factors]))
    delta = (left * np.concatenate([s[:20] for _, s, _ in factors])) @ right
    np.testing.assert_allclose(merged, base["layers.1.weight"].numpy() + delta, atol=4e-5)


def test_what_no_task_changed_is_the_bases_own():
    base, _ = states(1, torch.float64)
    base["layers.0.weight"][0, 0] = -0.0
    merged = sk.merge(base, [base, base], method="tsv_m")["layers.0.weight"]
    assert torch.equal(merged, base["layers.0.weight"])
    assert merged[0, 0].signbit()


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_and_memory_and_any_number_of_threads(tmp_path: Path, method: str, dtype: torch.dtype):
    base, models = states(3, dtype)
    given = {"task": 1} if method == "tsv_c" else {}
    expected = sk.merge(base, models, method=method, threads=2, **given)
    before = torch.get_num_threads()
    for threads in (1, 3):
        written = from_files(tmp_path, base, models, method, threads, parameters=given)
        in_memory = sk.merge(base, models, method=method, threads=threads, **given)
        for name, tensor in expected.items():
            assert torch.equal(written[name], tensor), name
            assert torch.equal(in_memory[name], tensor), name
    assert torch.get_num_threads() == before


def test_split_parts_are_decomposed_by_themselves(tmp_path: Path):
    base, models = states(2)
    part = slice(48, 96)
    split = {"layers.0.weight": 2}
    merged = sk.merge(base, models, method="tsv_m", split=split)["layers.0.weight"]
    expected = tsv.tsv_m_literal(base["layers.0.weight"][part].numpy(), stacked(models, "layers.0.weight")[:, part])
    np.testing.assert_allclose(merged[part], expected, atol=4e-5)
    assert torch.equal(from_files(tmp_path, base, models, "tsv_m", split=split)["layers.0.weight"], merged)


def test_the_plan_says_what_it_takes(tmp_path: Path):
    base, models = states(2)
    from_files(tmp_path, base, models, "linear")
    recipe = {
        "merge_method": "tsv_m",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / f"model{i}")} for i in range(2)],
    }
    plan = sk.merge_checkpoints(recipe, tmp_path / "merged", dry_run=True, threads=1)
    assert isinstance(plan, sk.Plan)
    assert plan.tier == "C"
    least = get("tsv_m").workspace(Place.alone((96, 130)), 2)
    assert plan.budget.peak > plan.budget.baseline + least


@pytest.mark.parametrize("method", ["tsv_m", "tsv_c"])
def test_only_matrices_are_needed_in_one_piece(method: str):
    shapes = {(3, 4): True, (3,): False, (3, 4, 2, 2): False, (): False}
    for shape, whole in shapes.items():
        assert get(method).in_one_piece(Settings(), Place.alone(shape), False) == whole
    assert get("tsv_m").in_one_piece(Settings(), Place.alone((3, 4), "text_projection.weight"), False) is False


def test_refusals():
    base, models = states(2)
    with pytest.raises(sk.InputError, match="tsv_c: task: 2, but the 2 models count from 0"):
        sk.merge(base, models, method="tsv_c", task=2)
    with pytest.raises(sk.InputError, match="tsv_c: task is required"):
        sk.merge(base, models, method="tsv_c")
    with pytest.raises(sk.InputError, match="ratio: expected a number in"):
        sk.merge(base, models, method="tsv_c", task=0, ratio=2)


def test_a_matrix_without_singular_values_is_named(tmp_path: Path):
    base, models = states(2)
    models[0]["layers.1.weight"][3, 3] = torch.nan
    from_files(tmp_path, base, models[1:], "tsv_m")
    save_file(models[0], tmp_path / "model0" / "model.safetensors")
    recipe = {
        "merge_method": "tsv_m",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "model0")}],
    }
    with pytest.raises(sk.InputError, match=r"'layers.1.weight': its singular values cannot be computed .*exclude it"):
        sk.merge_checkpoints(recipe, tmp_path / "merged", allow_nonfinite=True)


def test_a_decomposition_stays_within_the_limit(tmp_path: Path):
    """In a process of its own, torch and its libraries of linear algebra included."""
    generator = torch.Generator().manual_seed(1)
    base = {"w": torch.randn(900, 900, generator=generator)}
    models = [{"w": base["w"] + 0.1 * torch.randn(900, 900, generator=generator)} for _ in range(2)]
    from_files(tmp_path, base, models, "linear")
    limit = 600_000_000
    program = f"""
import threading, time
import sta_kernels as sk
from sta_kernels.engine.memory import anonymous_bytes
peak, stop = 0, threading.Event()
def watch():
    global peak
    while not stop.wait(0.002):
        peak = max(peak, anonymous_bytes())
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
folder = {str(tmp_path)!r}
models = [{{"model": f"{{folder}}/model{{i}}"}} for i in range(2)]
recipe = {{"merge_method": "tsv_m", "base_model": folder + "/base", "models": models}}
plan = sk.merge_checkpoints(recipe, folder + "/merged", threads=1, max_memory={limit}, dry_run=True)
sk.merge_checkpoints(recipe, folder + "/merged", threads=1, max_memory={limit})
stop.set()
watcher.join()
assert peak <= plan.budget.peak <= {limit}, (peak, plan.budget.peak)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
