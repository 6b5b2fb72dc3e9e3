"""Every merge of the suite, section by section.

Coefficients to choose from are few, around what the methods' papers use; what a paper fixes is fixed (STA: p = 0.7,
coefficient 1; TIES and its like: density). Tests hold the sections against the registry of methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

import sta_kernels as sk
from benchmarks.accuracy.offline.laboratory import Laboratory
from benchmarks.accuracy.offline.masks import P
from benchmarks.accuracy.offline.merges import Made, Merge, Shares
from benchmarks.accuracy.offline.store import Tensors
from benchmarks.accuracy.offline.variants import VARIANTS, Variant
from sta_kernels.demo.recipes import FROZEN, MEASURES
from sta_kernels.demo.train import LOGIT_SCALE, Head, to_input

PAPER_LAMBDA = 0.4
COUNTS = (1, 4, 8, 128)
"""Samples of importance beside the paper's 32."""
SAME_COUNTS = ("random", "magnitude")
"""Variants that are controls: as many entries of each task and tensor as STA keeps."""
ELSEWHERE = {*SAME_COUNTS, "sta", "scale", "random_position", "magnitude_position"}
"""Variants that are in other sections, most under another name."""
MOST_VALUES = 8
"""Of a variant's; where it has more, they are thinned."""
LEARNING_BATCH = 16
LEARNING_RATE = 1e-2
LEAST_CONTROL = 0.95
"""Of the pretrained model's accuracy on the other tasks, what negation must keep (arXiv 2212.04089, section 3)."""
Options = dict[str, Any]

# Of the methods that merge any number of models: fixed parameters, and the λ to choose from (none: as it is).
MERGING: dict[str, tuple[str, Options, tuple[float, ...]]] = {
    "linear": ("weight averaging", {}, ()),
    "task_arithmetic": ("task arithmetic", {}, (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    "ties": ("TIES", {"density": 0.2}, (0.6, 1.0, 1.5, 2.0)),
    "dare_linear": ("DARE", {"density": 0.5}, (0.3, 0.4, 0.6)),
    "dare_ties": ("DARE + TIES", {"density": 0.5}, (0.4, 0.6, 0.8)),
    "della": ("DELLA", {"density": 0.5}, (1.0, 1.5, 2.0)),
    "della_linear": ("DELLA without election", {"density": 0.5}, (0.3, 0.4, 0.6)),
    "breadcrumbs": ("Breadcrumbs", {"density": 0.9}, (0.3, 0.4, 0.6)),
    "breadcrumbs_ties": ("Breadcrumbs + TIES", {"density": 0.9}, (0.4, 0.6, 0.8)),
    "consensus": ("Consensus", {}, (0.3, 0.5, 0.8)),
    "pcb": ("PCB", {"ratio": 0.2}, (1.0, 1.5, 2.0)),
    "sce": ("SCE", {}, (1.0, 1.5, 2.0)),
    "model_stock": ("Model Stock", {}, ()),
    "karcher": ("Karcher mean", {}, ()),
    "multislerp": ("MultiSLERP of task vectors", {}, ()),
    "tsv_m": ("TSV-M", {}, ()),
}
NEEDS_DATA = {
    "tatr": ("TATR", (0.3, 0.4, 0.6), lambda preparation: preparation.gradients_at_base()),
    "fisher": ("Fisher averaging", (), lambda preparation: preparation.fisher()),
    "regmean": ("RegMean", (), lambda preparation: preparation.grams()),
}
SINGLE: dict[str, tuple[str, Options]] = {
    "passthrough": ("the fine-tuned model itself", {}),
    "slerp": ("SLERP to it, t = 0.5", {"t": 0.5}),
    "nearswap": ("NearSwap, t = 1e-4", {"t": 1e-4}),
    "arcee_fusion": ("Arcee Fusion", {}),
}
RESTORING: dict[str, str] = {"tall_mask": "TALL mask", "tsv_c": "TSV-C, a fifth of the triplets"}


def catalogue(tasks: tuple[str, ...]) -> dict[str, list[Merge]]:
    """All merges of these tasks, by section, in the order in which they are worth knowing."""
    return {
        "merging": [*ends(tasks), *importance(tasks), *registry(tasks)],
        "controls": [*controls(tasks), *variants(tasks, SAME_COUNTS, "controls")],
        "beyond": list(variants(tasks, (name for name in VARIANTS if name not in ELSEWHERE), "beyond")),
        "samples": list(samples(tasks)),
        "p": list(sweep(tasks)),
        "forgetting": list(forgetting(tasks)),
        "pairs": list(pairs(tasks)),
        "single": list(single(tasks)),
    }


def registered(method: str, tasks: Sequence[str], **fixed: Any) -> Callable[[Laboratory, Any], Made]:
    """A method of the registry that needs no data; the value is its λ, if any."""

    def make(laboratory: Laboratory, value: Any) -> Made:
        options = fixed if value is None else {**fixed, "lambda_": value}
        return Made(laboratory.merge(method, tasks, **options))

    return make


def selected(
    tasks: Sequence[str], importances: Callable[[Laboratory, str], Tensors] | None, **options: Any
) -> Callable[[Laboratory, Any], Made]:
    """STA with these importances, by laboratory and task; None where the measure needs none."""

    def make(laboratory: Laboratory, value: Any) -> Made:
        counts: dict[str, list[int]] = {}
        given = None if importances is None else [importances(laboratory, task) for task in tasks]
        return Made(laboratory.merge("sta", tasks, importances=given, counts=counts, **options), counts)

    return make


def lp(laboratory: Laboratory, task: str) -> Tensors:
    """The paper's importance, from 32 samples."""
    return laboratory.importance(task)


def ends(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """What merges lie between: the pretrained model, and each task's own."""
    yield Merge("pretrained", "pretrained", "merging", tasks, lambda laboratory, _: Made(laboratory.base))
    for task in tasks:
        own = registered("passthrough", (task,))
        yield Merge(f"individual-{task}", f"fine-tuned on {task}", "individual", (task,), own, of=(task,))


def importance(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """STA as the paper has it, by its three measures."""
    for measure, title in MEASURES.items():
        given = None if measure == "amp" else lp
        make = selected(tasks, given, p=P, measure=measure)
        yield Merge(f"sta_{measure}", f"STA {title}, p = {P}", "merging", tasks, make)

    def scaled(laboratory: Laboratory, value: float) -> Made:
        return selected(tasks, lp, p=P, lambda_=value)(laboratory, None)

    values = (0.6, 0.8, 1.0, 1.3)
    yield Merge("sta_lp_scaled", f"STA LP, p = {P}, coefficient chosen", "merging", tasks, scaled, values)


def registry(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """Every other method that merges any number of models into one."""
    for method, (title, fixed, values) in MERGING.items():
        make = registered(method, tasks, **fixed)
        yield Merge(method, title, "merging", tasks, make, values or (None,))
        if method == "task_arithmetic":
            make = registered(method, tasks, lambda_=PAPER_LAMBDA)
            yield Merge("task_arithmetic_paper", f"task arithmetic, λ = {PAPER_LAMBDA}", "merging", tasks, make)
    for method, (title, values, data) in NEEDS_DATA.items():
        yield Merge(method, title, "merging", tasks, with_data(method, tasks, data), values or (None,))
    yield Merge("adamerging", "AdaMerging, by tensor", "merging", tasks, adamerged)


def with_data(method: str, tasks: Sequence[str], data: Callable[[Any], Tensors]) -> Callable[[Laboratory, Any], Made]:
    """A method that needs to know something of each model on its data."""

    def make(laboratory: Laboratory, value: Any) -> Made:
        given = [laboratory.once(method, task, data) for task in tasks]
        options = {} if value is None else {"lambda_": value}
        return Made(laboratory.merge(method, tasks, importances=given, **options))

    return make


def adamerged(laboratory: Laboratory, value: Any) -> Made:
    """Coefficients learned on the validation images, without their labels."""
    heads = [laboratory.heads[task] for task in laboratory.names]
    side = laboratory.model.config.image
    learner = sk.AdaMerging(
        laboratory.model,
        laboratory.base,
        [laboratory.tuned[task] for task in laboratory.names],
        heads=[partial(logits, head) for head in heads],
        lr=LEARNING_RATE,
        exclude=FROZEN,
    )
    images = [to_input(laboratory.splits[task].validation.images, side) for task in laboratory.names]
    learner.learn([list(each.split(LEARNING_BATCH)) for each in images], steps=laboratory.sizes.learning)
    return Made(learner.merged())


def logits(head: Head, features: Tensor) -> Tensor:
    """Scaled scores [n, classes]."""
    return LOGIT_SCALE * head.scores(features)


def random_importance(laboratory: Laboratory, task: str) -> Tensors:
    """Numbers that know nothing: uniform, of the trained entries' shapes."""
    draws = torch.Generator().manual_seed(1000 * laboratory.seed + laboratory.names.index(task))
    sums = laboratory.gradients(task)
    return {name: torch.rand(total.shape, generator=draws) for name, total in sums.items()}


def change(laboratory: Laboratory, task: str) -> Tensors:
    """|τ|, which needs no data."""
    tuned = laboratory.tuned[task]
    return {name: (tuned[name] - laboratory.base[name]).abs() for name in laboratory.gradients(task)}


def controls(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """STA's selection, of the same density, by something else than importance."""
    yield Merge("random", "random tasks at each position", "controls", tasks, selected(tasks, random_importance, p=P))
    yield Merge("change", "greatest |τ| at each position", "controls", tasks, selected(tasks, change, p=P))

    def next_one(laboratory: Laboratory, task: str) -> Tensors:
        return laboratory.importance(tasks[(tasks.index(task) + 1) % len(tasks)])

    yield Merge("next", "LP of the next task", "controls", tasks, selected(tasks, next_one, p=P))


def variants(tasks: tuple[str, ...], names: Iterable[str], section: str) -> Iterator[Merge]:
    """What is beyond the paper."""

    def making(variant: Variant) -> Callable[[Laboratory, Any], Made]:
        return lambda laboratory, value: Made(variant.merge(laboratory.setting(variant.needs), value))

    for name in names:
        variant = VARIANTS[name]
        values = variant.values[:: math.ceil(len(variant.values) / MOST_VALUES)]
        yield Merge(f"variant-{name}", variant.title, section, tasks, making(variant), values)


def samples(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """Importance from fewer and more samples, and the shortcut that eq. 12 excludes."""

    def of(count: int) -> Callable[[Laboratory, str], Tensors]:
        def given(laboratory: Laboratory, task: str) -> Tensors:
            sums = laboratory.preparation(task).sums("gradients", count)
            return {name: laboratory.tuned[task][name].abs() * total for name, total in sums.items()}

        return given

    for count in COUNTS:
        title = "1 sample" if count == 1 else f"{count} samples"
        yield Merge(f"samples-{count}", title, "samples", tasks, selected(tasks, of(count), p=P))

    def summed(laboratory: Laboratory, task: str) -> Tensors:
        return laboratory.preparation(task).summed_over_batch()

    yield Merge("samples-summed", "gradient of the batch", "samples", tasks, selected(tasks, summed, p=P))


def sweep(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """P has N outcomes: N − 1 kept tasks down to none, which is the pretrained model."""
    for measure in ("lp", "amp"):
        for keep in range(len(tasks) - 1, 0, -1):
            make = selected(tasks, None if measure == "amp" else lp, keep=keep, measure=measure)
            yield Merge(f"keep-{measure}-{keep}", f"STA {MEASURES[measure]}, {keep} kept", "p", tasks, make)


def forgotten(task: str) -> Callable[[Shares, Shares], float]:
    """Least accuracy on the target, among what keeps the other tasks; if nothing does, what keeps them best."""

    def score(validation: Shares, pretrained: Shares) -> float:
        def control(shares: Shares) -> float:
            return sum(share for name, share in shares.items() if name != task) / (len(shares) - 1)

        kept = control(validation) / control(pretrained)
        return 1 - validation[task] if kept >= LEAST_CONTROL else kept - LEAST_CONTROL

    return score


def forgetting(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """Each task forgotten, from the pretrained model, by STA, by random entries as many, and by negation."""

    def by(given: Callable[[Laboratory, str], Tensors], task: str) -> Callable[[Laboratory, Any], Made]:
        return lambda laboratory, _: Made(
            sk.forget(None, laboratory.base, laboratory.tuned[task], given(laboratory, task), p=P, exclude=FROZEN)
        )

    for task in tasks:
        forget = partial(Merge, section="forgetting", on=tasks, brief=True, of=(task,))
        yield forget(f"forget-lp-{task}", f"STA LP, p = {P}", make=by(lp, task))
        yield forget(f"forget-random-{task}", "random entries as many", make=by(random_importance, task))
        negated, values = registered("task_arithmetic", (task,)), (-0.3, -0.6, -1.0)
        yield forget(f"forget-negation-{task}", "negation", make=negated, values=values, score=forgotten(task))


def pairs(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """Two tasks at a time (Figure 3)."""
    for pair in combinations(tasks, 2):
        joined = partial(Merge, section="pairs", on=pair, brief=True, of=pair)
        which = "-".join(pair)
        arithmetic, values = registered("task_arithmetic", pair), (0.4, 0.7, 1.0)
        yield joined(f"pair-linear-{which}", "weight averaging", make=registered("linear", pair))
        yield joined(f"pair-task_arithmetic-{which}", "task arithmetic", make=arithmetic, values=values)
        yield joined(f"pair-nuslerp-{which}", "NuSLERP of task vectors", make=registered("nuslerp", pair))
        yield joined(f"pair-sta_lp-{which}", f"STA LP, p = {P}", make=selected(pair, lp, p=P))


def single(tasks: tuple[str, ...]) -> Iterator[Merge]:
    """Methods that yield a model of one task: on that task, and on the next one as a control."""
    for i, task in enumerate(tasks):
        both = (task, tasks[(i + 1) % len(tasks)])
        alone = partial(Merge, section="single", on=both, brief=True, of=(task,))
        for method, (title, fixed) in SINGLE.items():
            yield alone(f"single-{method}-{task}", title, make=registered(method, (task,), **fixed))
        for method, title in RESTORING.items():
            yield alone(f"single-{method}-{task}", title, make=registered(method, tasks, task=i))
