"""Forgetting from a merged model takes away what the merge had added of the task, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sta_kernels as sk
from sta_kernels.errors import InputError


@pytest.fixture
def tasks() -> Any:
    generator = torch.Generator().manual_seed(2)
    # Eighths, so that what is added can be taken away without a trace.
    base = {"w": torch.randint(-80, 80, (300, 7), generator=generator) / 8}
    models = [{"w": base["w"] + torch.randint(-9, 9, (300, 7), generator=generator) / 8} for _ in range(4)]
    scores = [{"w": torch.rand(300, 7, generator=generator)} for _ in range(4)]
    return base, models, scores


@pytest.mark.parametrize("how", [{"p": 0.5}, {"keep": 2, "normalise": "mean"}])
def test_what_was_added_is_subtracted_and_no_more(how: dict[str, Any], tasks: Any) -> None:
    base, models, scores = tasks
    merged = sk.merge(base, models, importances=scores, **how)
    alone = [dict(base) for _ in models]
    alone[0] = models[0]  # the others add nothing, but stand in the ranking
    added = sk.merge(base, alone, importances=scores, **how)["w"] - base["w"]
    above = scores[0]["w"] > torch.kthvalue(scores[0]["w"].flatten(), 1 + int((300 * 7 - 1) * 0.25)).values
    counts: dict[str, list[int]] = {}
    got = sk.merge(
        base,
        models,
        method="sta_forget",
        importances=scores,
        target=merged,
        p=0.25,
        only_added=True,
        counts=counts,
        **{f"added_{key}": value for key, value in how.items()},
    )
    assert torch.equal(got["w"], torch.where(above, merged["w"] - added, merged["w"]))
    assert 0 < counts["w"][0] < above.sum()
    everything = sk.forget(merged, base, models[0], scores[0], p=0.25)
    assert not torch.equal(everything["w"], got["w"])


def test_a_single_model_is_no_merge(tasks: Any) -> None:
    base, models, scores = tasks
    with pytest.raises(InputError, match="needs all models of that merge"):
        sk.merge(base, models[:1], method="sta_forget", importances=scores[:1], only_added=True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "4 models given, it forgets one"),
        ({"only_added": True, "measure": "amp"}, "only_added needs measure: lp"),
        ({"only_added": True, "added_keep": 5}, "added_keep: 5 entries of 4"),
        ({"only_added": True, "added_keep": 1, "added_p": 0.1}, "give added_p or added_keep, not both"),
    ],
)
def test_refused(parameters: dict[str, Any], message: str, tasks: Any) -> None:
    base, models, scores = tasks
    with pytest.raises(InputError, match=message):
        sk.merge(base, models, method="sta_forget", importances=scores, **parameters)
