"""``ops.sta_merge`` against the rooflines of its streams, eager PyTorch and a compiled network of minima and maxima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import baselines, costs
from benchmarks.harness import Contender, Contest, check_bits, check_mostly_equal, reference, windows
from benchmarks.operands import FORMATS, Operands, case, operands
from benchmarks.rooflines import one_after_the_other, stream_read, stream_sum, triad
from sta_kernels import ops
from sta_kernels.methods.quantile import rank_of_quantile

P = 0.7
N_MODELS = (2, 4, 6, 8)

every_size = pytest.mark.parametrize("n_models", N_MODELS)
every_format = pytest.mark.parametrize("formats", FORMATS)


def merge(o: Operands, normaliser: Tensor | None) -> Tensor:
    return ops.sta_merge(o.base, o.finetuned, o.importances, p=P, normaliser=normaliser, out=o.out)


def checked_normaliser(o: Operands) -> Tensor:
    result = ops.normaliser(o.importances)
    for (shift, divisor), importance in zip(result, o.importances, strict=True):
        low, high = torch.aminmax(importance.float())
        assert (shift, divisor) == (low, high - low)
    return result


def checked_merge(o: Operands, normaliser: Tensor | None) -> Callable[[], Tensor]:
    """The op, once its result has been compared; the bits are the same with the normaliser given or computed."""
    merge(o, normaliser)
    known = checked_normaliser(o)
    for window in windows(len(o.base)):
        part = o[window]
        with reference():
            expected = ops.sta_merge(part.base, part.finetuned, part.importances, p=P, normaliser=known)
        check_bits(part.out, expected)
    return lambda: merge(o, normaliser)


def contender(o: Operands, normaliser: Tensor | None) -> Contender:
    n_bytes = costs.sta_merge(o.base, o.finetuned, o.importances, o.out, normaliser_given=normaliser is not None)
    return Contender("sta_merge", checked_merge(o, normaliser), n_bytes)


def rooflines(o: Operands) -> tuple[Contender, Contender, Contender]:
    """Over the same streams; and the triad, by which the machine's state in these very rounds can be judged."""
    streams = [o.base, *o.finetuned, *o.importances]
    b, c, a = torch.ones(3, len(o.base))
    scratch = torch.empty_like(o.out)
    return stream_sum(streams, scratch), stream_read(o.importances), triad(b, c, a)


@every_format
@every_size
def test_with_normaliser(contest: Contest, elements: int, formats: str, n_models: int) -> None:
    o = operands(formats, n_models, elements)
    pass_, _, triad_ = rooflines(o)
    contenders = (contender(o, ops.normaliser(o.importances)), pass_, triad_)
    contest("sta_merge", contenders, case(formats, n_models, elements) | {"normaliser": "given"})


@every_format
@every_size
def test_without_normaliser(contest: Contest, elements: int, formats: str, n_models: int) -> None:
    o = operands(formats, n_models, elements)
    pass_, read, triad_ = rooflines(o)
    contenders = (contender(o, None), one_after_the_other(pass_, read), triad_)
    contest("sta_merge", contenders, case(formats, n_models, elements) | {"normaliser": "computed"})


@every_size
def test_importances_with_zeros(contest: Contest, elements: int, n_models: int) -> None:
    """Minima of 0 take the kernel's guard against tiny quotients; and ties leave positions without any task."""
    o = operands("float32", n_models, elements, zeros=0.1)
    pass_, _, triad_ = rooflines(o)
    contenders = (contender(o, ops.normaliser(o.importances)), pass_, triad_)
    contest("sta_merge", contenders, case("float32", n_models, elements) | {"normaliser": "given", "zeros": 0.1})


@every_format
@every_size
def test_against_eager(contest: Contest, elements: int, formats: str, n_models: int) -> None:
    o = operands(formats, n_models, elements)
    ours = contender(o, ops.normaliser(o.importances))
    normaliser = ops.normaliser(o.importances)

    def eager() -> Tensor:
        return baselines.sta_merge_eager(o.base, o.finetuned, o.importances, P, normaliser)

    check_mostly_equal(eager(), o.out)
    contenders = (ours, Contender("eager", eager, ours.n_bytes))
    described = case(formats, n_models, elements) | {"normaliser": "given"}
    contest("sta_merge", contenders, described, share_of_rounds=0.17)


@every_size
def test_against_compiled(contest: Contest, elements: int, n_models: int) -> None:
    """Compiles for half a minute per number of models: ``-k "not compiled"`` leaves it out."""
    o = operands("float32", n_models, elements)
    normaliser = ops.normaliser(o.importances)
    ours = contender(o, normaliser)
    network: Callable[..., Any] = baselines.compiled(baselines.sta_merge_network)
    result = torch.empty_like(o.out)

    def run() -> None:
        network(o.base, o.finetuned, o.importances, normaliser, rank_of_quantile(P, n_models), result)

    run()
    check_bits(result, o.out)
    contenders = (ours, Contender("torch.compile", run, ours.n_bytes))
    described = case("float32", n_models, elements) | {"normaliser": "given"}
    contest("sta_merge", contenders, described, share_of_rounds=0.5)
