"""Ops on whole blocks of a launch's default size and a tail; on a GPU and, fewer and smaller, in the interpreter.

The small operands of ``op_cases`` fill no block: a merge takes them on its plain path alone.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from device_operands import DTYPES, LAYOUTS, Operands, check, many, on_cpu, reference, same

from sta_kernels import ops
from sta_kernels.kernels import interpreted
from sta_kernels.kernels.triton import sta_merge
from sta_kernels.kernels.triton.config import LaunchConfig

F32, BF16, F16, F64 = DTYPES
PLACES = ("new", "base", "model")

# Tasks, dtypes, measure, ties. Each is run with and without weights and counters where there is a GPU.
FEW = [
    (2, (F32, F32), "lp", "drop"),
    (3, (BF16, F32), "lp_amp", "all"),
    (6, (F32, F32), "amp", "drop"),
    (9, (BF16, BF16), "lp", "all"),
]
ALL = [
    *itertools.product(
        (2, 3, 6, 8, 9, 12, 16),
        ((F32, F32), (BF16, F32), (BF16, BF16), (F16, F16)),
        ("lp", "amp", "lp_amp"),
        ("drop", "all"),
    )
]


def merge(o: Operands, measure: str, ties: str, *, weighted: bool, counted: bool, place: str) -> None:
    """Into new memory or in place, which must make no difference."""
    n_tasks, scores = len(o.finetuned), None if measure == "amp" else o.importances
    options: dict[str, Any] = {"measure": measure, "ties": ties}
    if weighted:
        options |= {"weight": [0.5 + 0.25 * i for i in range(n_tasks)], "lambda_": 0.4}
    if counted:
        options["kept"] = torch.full((n_tasks + 1,), -1, device=o.base.device)
    if place == "new":
        check(ops.sta_merge, o.base, o.finetuned, scores, **options)
        return
    copies, told = on_cpu([o.base, o.finetuned, scores]), {name: on_cpu(each) for name, each in options.items()}
    with reference():
        expected = ops.sta_merge(*copies, **told)
    target = o.base if place == "base" else o.finetuned[-1]
    assert ops.sta_merge(o.base, o.finetuned, scores, out=target, **options) is target
    same(target, expected)
    if counted:
        same(options["kept"], told["kept"])


@pytest.mark.parametrize(("index", "case"), [*enumerate(FEW if interpreted() else ALL)], ids=str)
def test_merges_of_whole_blocks(device: torch.device, index: int, case: Any):
    n_tasks, (weights, importances), measure, ties = case
    switches = [*itertools.product((False, True), repeat=2)]
    for step, (weighted, counted) in enumerate([switches[index % 4]] if interpreted() else switches):
        o = Operands(device, (many(),), n_tasks, weights, importances, positive=True)
        if (index + step) % 4 == 3:
            o = o.laid_out("misaligned", "misaligned", "misaligned")
        place = PLACES[(index + step) % 3]
        merge(o, measure, ties, weighted=weighted, counted=counted, place=place)


@pytest.mark.parametrize("place", PLACES[1:] if interpreted() else PLACES)
@pytest.mark.parametrize("layout", ["misaligned"] if interpreted() else ["contiguous", "misaligned"])
def test_merges_of_whole_blocks_in_place(device: torch.device, place: str, layout: str):
    for n_tasks, dtype in [(2, BF16)] if interpreted() else itertools.product((2, 3, 6, 8, 9, 12, 16), DTYPES):
        o = Operands(device, (many(),), n_tasks, dtype, positive=True).laid_out(layout, layout, layout)
        merge(o, "lp", "drop", weighted=False, counted=True, place=place)


@pytest.mark.parametrize("place", ["base"] if interpreted() else PLACES)
def test_fast_and_plain_blocks_by_turns(device: torch.device, place: str, monkeypatch: pytest.MonkeyPatch):
    """Within one program: what a block on one path has written, a block on the other must not read."""
    block = 64 if interpreted() else 512
    launch = LaunchConfig(block, 4 * block, block // 128 or 1)
    monkeypatch.setattr(sta_merge, "elementwise_config", lambda *args, **kwargs: launch)
    elements = 6 * block + 41 if interpreted() else many()
    o = Operands(device, (elements,), 3, positive=True)
    for each in o.importances:
        each[block + 5 :: 2 * block] = 2.0**-130  # a quotient that the fast path may not round
    table = torch.tensor([[0.0, 1.0]] * 3, device=device)
    expected = check(ops.sta_merge, *o, normaliser=table)
    out = {"new": torch.empty_like(o.base), "base": o.base, "model": o.finetuned[1]}[place]
    same(ops.sta_merge(*o, normaliser=table, out=out), expected.cpu())


@pytest.mark.parametrize("dtype", [BF16] if interpreted() else DTYPES, ids=str)
def test_other_ops_of_whole_blocks(device: torch.device, dtype: Any):
    for layout in ("contiguous",) if interpreted() else ("contiguous", "misaligned"):
        o = Operands(device, (many(),), 3, dtype, F32, positive=True).laid_out(layout, layout, layout)
        check(ops.linear, None, o.finetuned)
        check(ops.linear, o.base, o.finetuned, weight=[0.5, 1.0, 2.0])
        check(ops.task_arithmetic, o.base, o.finetuned, lambda_=0.3)
        check(ops.minmax, [o.base, *o.importances])
        check(ops.normaliser, [o.importances[:2], o.importances[2]], "mean")
        for k in (many() // 2,) if interpreted() else (1, many() // 2, many()):
            check(ops.order_statistic, o.importances[0], k)
        for target in (o.finetuned[1],) if interpreted() else (o.base, o.finetuned[1]):
            kept = torch.full((1,), -1, device=device)
            check(ops.sta_forget, target, o.base, o.finetuned[0], o.importances[0], p=0.6, kept=kept)
        total = LAYOUTS[layout](torch.zeros(many(), device=device))
        for grad in o.finetuned[:1] if interpreted() else o.finetuned:
            check(ops.taylor_accumulate_, total, grad)
        for measure in ("lp_amp",) if interpreted() else ("lp", "amp", "lp_amp"):
            check(ops.taylor_finish, total, o.base, measure=measure)


@pytest.mark.skipif(interpreted(), reason="too many elements")
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_several_blocks_per_program(device: torch.device, dtype: Any):
    """Of the launches that are chosen without a table, those of small tensors give a program one block."""
    n = 3 * 4096 * 1024 * 4 + 41
    o = Operands(device, (n,), 3, dtype, positive=True)
    kept = torch.full((4,), -1, device=device)
    check(ops.sta_merge, *o, kept=kept)
    check(ops.linear, None, o.finetuned)
    check(ops.sta_forget, o.base, o.base, o.finetuned[0], o.importances[0])
    check(ops.minmax, o.importances)
    check(ops.normaliser, o.importances, "mean")
    check(ops.order_statistic, o.importances[0], n // 2)
    check(ops.taylor_finish, o.importances[0], o.base)
