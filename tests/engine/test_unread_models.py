"""Models that a method only counts are not read while it merges, and nothing is said of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sta_kernels as sk
from sta_kernels.engine import merge_checkpoints
from sta_kernels.engine.jobs import Job

CASES = {
    "tsv_c": ({"task": 1, "ratio": 0.5}, {0, 2}),
    "sta_forget": ({"only_added": True, "p": 0.4, "added_keep": 2}, {1, 2}),
}


@pytest.mark.parametrize(("method", "small"), [("tsv_c", False), ("sta_forget", False), ("sta_forget", True)])
def test_only_models_that_are_used_are_read(
    float_models: Any, tmp_path: Path, shrink_buffers: Callable[..., None], method: str, small: bool
):
    parameters, unread = CASES[method]
    recipe = float_models.recipe(method, parameters=parameters)
    if small:
        shrink_buffers(160 << 10)  # so that the first tensor is read once more for its statistics
    plan = merge_checkpoints(recipe, tmp_path / "out", dry_run=True)
    merged = [job for job in plan.jobs if job.action == "merge"]
    read = {(operand.role, operand.input) for job in merged for operand in job.distinct}
    assert len([role for role, _ in read if role == "model"]) == 1
    for job in merged:
        assert set(job.unread) == unread
        assert len(job.of_role("model")) == 3
        left_out = sum(job.bytes_of(job.of_role("model")[i], job.size) for i in unread)
        assert job.bytes_read == replace(job, unread=()).bytes_read - left_out
        assert job.memory(100) < replace(job, unread=()).memory(100)
        assert Job.from_json(job.to_json()) == job
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done: list[tuple[int, int]] = []
        merge_checkpoints(
            recipe, tmp_path / "out", progress=lambda stage, *at: done.append(at) if stage == "merge" else None
        )
    assert done[-1] == (plan.bytes_read - plan.bytes_shared,) * 2
    want = sk.merge(
        float_models.base,
        float_models.models,
        method=method,
        importances=float_models.importances if method == "sta_forget" else None,
        **parameters,
    )
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_a_model_in_two_places_is_read_where_one_of_them_is(float_models: Any, tmp_path: Path):
    recipe = float_models.recipe("tsv_c", parameters={"task": 1})
    recipe["models"][2] = recipe["models"][1]
    with pytest.warns(UserWarning, match="models 2, 3: the same model"):
        merge_checkpoints(recipe, tmp_path / "out")
    models = [*float_models.models[:2], float_models.models[1]]
    want = sk.merge(float_models.base, models, method="tsv_c", task=1)
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(want[name], got[name]) for name in want)
