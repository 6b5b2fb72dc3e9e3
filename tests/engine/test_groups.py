"""Statistics over a layer or the model: what the plan refuses, and the memory that it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from refusing import refused

import sta_kernels as sk
from sta_kernels.engine import Plan, groups, merge_checkpoints
from sta_kernels.methods import statistics


def filtered(one: Any, rest: Any) -> list[dict[str, Any]]:
    return [{"filter": "in_proj", "value": one}, {"value": rest}]


DIFFERING = [
    ("ties", {"scope": "model", "density": filtered(0.5, 0.7)}, "density", "model"),
    ("ties", {"scope": "model", "density": 0.5, "weight": filtered(0.5, 0.7)}, "weight", "model"),
    ("ties", {"scope": filtered("model", "tensor"), "density": 0.5}, "scope", "model"),
    ("sta", {"scope": filtered("block", "tensor")}, "scope", "block"),
    ("sta", {"scope": "block", "normalise": filtered("mean", "minmax")}, "normalise", "block"),
    ("fisher", {"epsilon_of": filtered("mean", "absolute")}, "epsilon_of", "model"),
    ("fisher", {"normalize": filtered(True, False)}, "normalize", "model"),
    ("tatr", {"zero_shot": filtered(True, False)}, "zero_shot", "model"),
]


@pytest.mark.parametrize(("method", "parameters", "key", "scope"), DIFFERING)
def test_what_must_be_the_same_is_named_by_the_plan(
    mixed_models: Any, method: str, parameters: dict[str, Any], key: str, scope: str, tmp_path: Path
) -> None:
    recipe = {**mixed_models.recipe(method), "parameters": parameters}
    said = f"it must be the same for all tensors of the {scope}"
    refused(recipe, tmp_path / "out", f"{method}: {key}: ", said, dry_run=True)


def test_layers_may_differ_where_the_statistics_are_of_each(own: Any, tmp_path: Path) -> None:
    scope = [{"filter": "layers.0", "value": "block"}, {"value": "tensor"}]
    manifest = merge_checkpoints({**own[0], "parameters": {"scope": scope}}, tmp_path / "out")
    assert isinstance(manifest, sk.Manifest)


def test_a_missing_coefficient_is_refused_by_the_plan(mixed_models: Any, tmp_path: Path) -> None:
    table = {"head.scale": [0.1, 0.2, 0.3]}
    path = tmp_path / "coefficients.json"
    path.write_text('{"sta_kernels.coefficients": 1, "tensors": {"head.scale": [0.1, 0.2, 0.3]}}')
    recipe = {**mixed_models.recipe("adamerging"), "parameters": {"coefficients": str(path)}}
    refused(recipe, tmp_path / "out", "adamerging: coefficients: none for '", dry_run=True)
    base = {"head.scale": torch.zeros(()), "w": torch.zeros(2)}
    with pytest.raises(sk.InputError, match="adamerging: coefficients: none for 'w'"):
        sk.merge(base, [base] * 3, method="adamerging", coefficients=table)


def shared_bytes(recipe: dict[str, Any], out: Path) -> int:
    plan = merge_checkpoints(recipe, out, dry_run=True, threads=1)
    assert isinstance(plan, Plan)
    return plan.budget.peak - plan.budget.baseline


def test_accumulators_count_as_memory(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per model, a mean: 8 bytes per leaf, of which the segments of the model fill 6 + 1 + 1 + 1 + 1 + 1."""
    recipe = {**own[0], "merge_method": "fisher"}
    del recipe["base_model"]
    without = shared_bytes({**recipe, "parameters": {"epsilon_of": "absolute"}}, tmp_path / "out")
    assert shared_bytes(recipe, tmp_path / "out") - without == (3 + 1) * 8 * 11
    both = {**recipe, "parameters": {"normalize": True}}
    assert shared_bytes(both, tmp_path / "out") - without == (6 + 1) * 8 * 11
    monkeypatch.setattr(statistics.Sum, "held", lambda self, extent: extent * 1000)  # a model far larger
    refused(recipe, tmp_path / "out", "max_memory: ", "is too little", max_memory="192MB", dry_run=True)


def test_blocks_have_their_turns(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker has the accumulators of one block at a time."""
    open_: set[int] = set()
    most = []
    start, settle = groups.GroupRun.__init__, groups.GroupRun.settle

    def started(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        open_.add(id(self))
        most.append(len(open_))

    def settled(self: Any, task: Any) -> bool:
        ended = settle(self, task)
        if ended:
            assert not self._rounds.pending
            open_.remove(id(self))
        return ended

    monkeypatch.setattr(groups.GroupRun, "__init__", started)
    monkeypatch.setattr(groups.GroupRun, "settle", settled)
    merge_checkpoints({**own[0], "parameters": {"scope": "block"}}, tmp_path / "out", threads=1)
    assert len(most) == 4
    assert max(most) == 1
