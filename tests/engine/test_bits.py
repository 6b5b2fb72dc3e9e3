"""The engine writes the bits that merging in memory gives, whatever the tiles, the threads and the memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels as sk
from sta_kernels import methods
from sta_kernels.checkpoint import ImportanceMetadata
from sta_kernels.engine import Manifest, Plan, merge_checkpoints
from sta_kernels.methods.statistics import Summary

CASES: dict[str, dict[str, Any]] = {
    "sta": {"parameters": {"p": 0.5}},
    "sta_mean": {"parameters": {"normalise": "mean", "keep": 2, "ties": "all", "lambda": 0.7}},
    "sta_amp": {"parameters": {"measure": "amp"}},
    "sta_lp_amp": {"parameters": {"measure": "lp_amp", "p": 0.3}, "split": {"*.in_proj_weight": 3}},
    "sta_forget": {"parameters": {"p": 0.6}},
    "sta_forget_added": {"parameters": {"p": 0.4, "only_added": True, "added_keep": 2}},
    "linear": {"parameters": {"weight": 0.3}},
    "task_arithmetic": {"parameters": {"weight": 0.3, "lambda": 0.4}, "exclude": ["embed.*"], "dtype": "float32"},
    "sta_block": {"parameters": {"p": 0.5, "scope": "block"}},
    "ties": {"parameters": {"density": 0.3, "weight": 0.5}, "split": {"*.in_proj_weight": 3}},
    "ties_l1": {"parameters": {"density": 0.6, "rescale": True, "normalize": False}, "dtype": "float32"},
    "ties_model": {"parameters": {"density": 0.2, "scope": "model"}},
    "dare_linear": {"parameters": {"density": 0.4, "seed": 7, "weight": 0.3}, "split": {"*.in_proj_weight": 3}},
    "dare_ties": {"parameters": {"density": 0.7, "rescale": "keep_rate", "normalize": True}},
    "della": {"parameters": {"density": 0.5, "epsilon": 0.3, "seed": 7}, "split": {"*.in_proj_weight": 3}},
    "della_linear": {"parameters": {"density": 0.7, "rescale": "keep_rate", "weight": 0.3}, "dtype": "float32"},
    "breadcrumbs": {"parameters": {"density": 0.8, "gamma": 0.05, "weight": 0.4}},
    "breadcrumbs_ties": {"parameters": {"density": 0.5, "gamma": 0.3, "rescale": "l1"}},
    "consensus": {"parameters": {"mask_lambda": 0.3, "lambda": 0.5}, "dtype": "float64"},
    "tall_mask": {"parameters": {"task": 1}},
    "pcb": {"parameters": {"ratio": 0.3}},
    "fisher": {"parameters": {"normalize": True}},
    "tatr": {"parameters": {"quantile": 0.9}},
    "tatr_zero_shot": {"parameters": {"quantile": 0.8, "zero_shot": True}},
    "sce": {"parameters": {"select_topk": 0.4}},
    "model_stock": {},
    "model_stock_rows": {"parameters": {"filter_wise": True}, "split": {"*.in_proj_weight": 3}},
    "slerp": {"parameters": {"t": 0.3}, "dtype": "float32"},
    "nuslerp": {"parameters": {"weight": 0.7}},
    "nuslerp_columns": {"parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True}, "dtype": "float64"},
    "nuslerp_without_base": {"parameters": {"nuslerp_flatten": False}},
    "multislerp": {"parameters": {"weight": 0.4}},
    "multislerp_without_base": {"split": {"*.in_proj_weight": 3}},
    "karcher": {"parameters": {"max_iter": 5}},
    "nearswap": {"parameters": {"t": 0.05}},
    "arcee_fusion": {"split": {"*.in_proj_weight": 3}},
}
"""By a name that starts with the method's."""
COUNTS = {"sta_forget": 1, "slerp": 1, "nearswap": 1, "arcee_fusion": 1} | dict.fromkeys(
    ("nuslerp", "nuslerp_columns", "nuslerp_without_base"), 2
)
"""Models of a case, where they are not three."""
METHODS = sorted(methods.names(), key=len, reverse=True)
OUT_DTYPES = {"float32": torch.float32, "float16": torch.float16, "float64": torch.float64}


def in_memory(models: Any, recipe: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The same merge by the facade on state dicts."""
    method = recipe["merge_method"]
    count = len(recipe["models"])
    parameters = {{"lambda": "lambda_"}.get(key, key): value for key, value in recipe.get("parameters", {}).items()}
    return sk.merge(
        models.base if "base_model" in recipe else None,
        models.models[:count],
        method=method,
        importances=models.importances[:count] if "parameters" in recipe["models"][0] else None,
        exclude=recipe.get("exclude", ()),
        split=recipe.get("split"),
        out_dtype=OUT_DTYPES.get(recipe.get("dtype", "")),
        **parameters,
    )


def recipe_of(models: Any, case: str) -> dict[str, Any]:
    method = next(name for name in METHODS if case.startswith(name))
    recipe = models.recipe(method, models=COUNTS.get(case, 3), **CASES[case])
    if method in ("linear", "fisher", "karcher") or case.endswith("_without_base"):
        del recipe["base_model"]  # else these three take it as one more model, as mergekit does
    return recipe


def assert_same_bits(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        assert torch.equal(as_bytes(got[name]), as_bytes(tensor)), name


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).contiguous().view(torch.uint8)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["float_models", "mixed_models"])
def test_one_piece_equals_in_memory(case: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    models = request.getfixturevalue(kind)
    recipe = recipe_of(models, case)
    merge_checkpoints(recipe, tmp_path / "out")
    assert_same_bits(load_file(tmp_path / "out" / "model.safetensors"), in_memory(models, recipe))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("arena", [160 << 10, 400 << 10])
@pytest.mark.parametrize("case", CASES)
def test_tiles_and_threads_change_nothing(
    mixed_models: Any, case: str, arena: int, threads: int, tmp_path: Path, shrink_buffers: Callable[..., None]
) -> None:
    shrink_buffers(arena, tile=150 << 10)
    recipe = recipe_of(mixed_models, case)
    result = merge_checkpoints(recipe, tmp_path / "out", threads=threads, max_memory="2GB")
    want = in_memory(mixed_models, recipe)
    assert isinstance(result, Manifest)
    assert_same_bits(load_file(tmp_path / "out" / "model.safetensors"), want)


def test_counts_are_those_of_the_merge_in_memory(
    mixed_models: Any, tmp_path: Path, shrink_buffers: Callable[..., None]
) -> None:
    shrink_buffers(160 << 10)
    recipe = recipe_of(mixed_models, "sta_lp_amp")
    result = merge_checkpoints(recipe, tmp_path / "out", max_memory="2GB")
    counts: dict[str, list[int]] = {}
    sk.merge(
        mixed_models.base,
        mixed_models.models,
        importances=mixed_models.importances,
        split=recipe["split"],
        counts=counts,
        p=0.3,
        measure="lp_amp",
    )
    assert isinstance(result, Manifest)
    got = {record["name"]: [*record["kept"], record["unrouted"]] for record in result.tensors}
    assert got == {name: values for name, values in counts.items() if name != "empty"}
    assert result.summary()["kept"] == [sum(values[i] for values in counts.values()) for i in range(3)]


def test_statistics_in_the_file_save_their_pass_and_change_nothing(
    float_models: Any, tmp_path: Path, shrink_buffers: Callable[..., None]
) -> None:
    shrink_buffers(160 << 10)
    recipe = float_models.recipe("sta")
    for i, entry in enumerate(recipe["models"]):
        tensors = float_models.importances[i]
        table = {
            name: Summary(x.min().item(), x.max().item(), float(np.float32(x.double().mean().item())))
            for name, x in tensors.items()
            if x.numel()
        }
        metadata = ImportanceMetadata("lp", 32, "0" * 32, "0", table).to_metadata()
        save_file(tensors, tmp_path / f"{i}.safetensors", metadata=metadata)
        entry["parameters"] = {"importance": str(tmp_path / f"{i}.safetensors")}
    plain = merge_checkpoints(float_models.recipe("sta"), tmp_path / "plain", dry_run=True, max_memory="2GB")
    saving = merge_checkpoints(recipe, tmp_path / "out", dry_run=True, max_memory="2GB")
    assert isinstance(plain, Plan)
    assert isinstance(saving, Plan)
    assert saving.bytes_read == plain.bytes_read - 3 * 4 * 700 * 33  # embed.weight alone is streamed
    merge_checkpoints(recipe, tmp_path / "out", max_memory="2GB")
    want = in_memory(float_models, {**recipe, "parameters": {}})
    assert_same_bits(load_file(tmp_path / "out" / "model.safetensors"), want)


def test_conversion_keeps_what_the_dtype_can_hold(tmp_path: Path) -> None:
    """Copied entries, too, are rounded once; negative zero and float64 survive."""
    values = torch.tensor([-0.0, 0.0, 1 / 3, -1e-40, 65504.0, 3.0])
    base = {"kept": values.double() / 3, "w": values.clone()}
    for name, tensors in (("base", base), ("model", {**base, "w": base["w"] + 1})):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
    recipe: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "model"), "parameters": {"weight": 0}}],
        "exclude": ["kept"],
    }
    for dtype, out_dtype in (("float32", torch.float32), ("float16", torch.float16), ("float64", torch.float64)):
        merge_checkpoints({**recipe, "dtype": dtype}, tmp_path / dtype)
        got = load_file(tmp_path / dtype / "model.safetensors")["kept"]
        assert got.dtype == out_dtype
        assert (
            got.numpy().tobytes()
            == base["kept"].to(torch.float32 if dtype != "float64" else out_dtype).to(out_dtype).numpy().tobytes()
        )


def test_mixed_dtypes_and_a_target(tmp_path: Path, mixed_models: Any) -> None:
    target = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in
              mixed_models.models[2].items()}  # fmt: skip
    (tmp_path / "target").mkdir()
    save_file(target, tmp_path / "target" / "model.safetensors")
    recipe = mixed_models.recipe("sta_forget", models=1, target=str(tmp_path / "target"), exclude=["embed.*"])
    merge_checkpoints(recipe, tmp_path / "out")
    want = sk.forget(
        target, mixed_models.base, mixed_models.models[0], mixed_models.importances[0], exclude=["embed.*"]
    )
    assert_same_bits(load_file(tmp_path / "out" / "model.safetensors"), want)
