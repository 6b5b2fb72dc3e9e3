"""Formulas of the native core against a sum of the same streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from benchmarks import costs
from benchmarks.harness import Contender, Contest, check_bits, windows
from benchmarks.operands import Operands, case, operands
from benchmarks.rooflines import stream_sum
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.native import NativeBackend
from sta_kernels.kernels.numpy_backend import NumpyBackend

DISTANCE = 0.001
"""Standard deviation of what fine-tuning added, as in :mod:`benchmarks.operands`."""


@dataclass(frozen=True)
class Rule:
    """A formula for any number of models.

    Attributes:
        formula: made for that many.
        importances: whether it reads them.
        base: whether it reads that.
    """

    formula: Callable[[int], Formula]
    importances: bool = False
    base: bool = True


def sparse(gate: int, *, elects: bool) -> Callable[[int], Formula]:
    """A sum of task vectors: all, trimmed to the larger fifth, drawn at density 0.5, or masked."""

    def make(n_models: int) -> Formula:
        rows = ((0.5, 2.0, float("inf"), 1.28 * DISTANCE),) * n_models
        integers = [value for task in range(n_models) for value in (0, 0, 1 << 31, task)]
        return Formula("sparse_sum", (gate, elects, elects), (0.7, 1.0, 1.0), rows, (42, 7, *integers))

    return make


RULES = {
    "sum": Rule(sparse(0, elects=False)),
    "trimmed": Rule(sparse(1, elects=False)),
    "ties": Rule(sparse(1, elects=True)),
    "dare": Rule(sparse(2, elects=False)),
    "dare_ties": Rule(sparse(2, elects=True)),
    "masked": Rule(sparse(3, elects=True), importances=True),
    "consensus": Rule(lambda n: Formula("agreement", (), (0.3,), ((0.4, 1.0),) * n, (2,))),
    "fisher": Rule(lambda n: Formula("fisher", (), (), ((0.25, 1e-6),) * n), importances=True, base=False),
    "trust_region": Rule(lambda n: Formula("trust_region", (1,), (0.3, 3 * DISTANCE**2), ((1.0,),) * n)),
    "sce": Rule(lambda n: Formula("sce", (), (1.0, DISTANCE**2), ((0.25,),) * n, (0,))),
    # Clips and scores as the method finds them for four such tensors at its defaults.
    "pcb": Rule(lambda n: Formula("pcb", (3,), (1.2,), ((0.0125 * DISTANCE, 2.576 * DISTANCE, 1.0, 0.093, 2.9),) * n)),
}


def source(rule: Rule, o: Operands, offset: int = 0) -> FormulaSource:
    return FormulaSource(
        rule.formula(len(o.finetuned)),
        tuple(map(Buffer.from_torch, o.finetuned)),
        Buffer.from_torch(o.base) if rule.base else None,
        tuple(map(Buffer.from_torch, o.importances)) if rule.importances else (),
        offset,
    )


def streams(rule: Rule, o: Operands) -> list[Tensor]:
    return [*([o.base] if rule.base else []), *o.finetuned, *(o.importances if rule.importances else [])]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("formats", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_models", [4])
def test_evaluate(contest: Contest, elements: int, name: str, formats: str, n_models: int) -> None:
    rule, o, native = RULES[name], operands(formats, n_models, elements), NativeBackend()
    given, out, threads = source(rule, o), Buffer.from_torch(o.out), torch.get_num_threads()
    native.evaluate(given, out=out, threads=threads)
    for window in windows(elements):
        part = o[window]
        expected = part.out.clone()
        NumpyBackend().evaluate(source(rule, part, window.start), out=Buffer.from_torch(expected), threads=1)
        check_bits(part.out, expected)
    read = streams(rule, o)
    ours = Contender(name, lambda: native.evaluate(given, out=out, threads=threads), costs.moved((*read, o.out)))
    contenders = (ours, stream_sum(read, o.out.clone()))
    contest("formula", contenders, case(formats, n_models, elements) | {"formula": name}, share_of_rounds=0.5)
