"""What could be done otherwise than in the STA paper: every variant as a function from models to a merged model.

Each stands beside STA at p = 0.7 with the same models, the same samples and the same seeds. What the library has as an
option is asked of the library; the rest is a few lines over :mod:`benchmarks.accuracy.offline.masks`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

import sta_kernels
from benchmarks.accuracy.offline.masks import P, greatest, kept_at, minmax, noise, ranks, top
from sta_kernels import linalg
from sta_kernels.errors import InputError
from sta_kernels.methods.groups import block_of
from sta_kernels.methods.tsv import rank_of

Need = Literal["gradients", "sampled", "task-free"]

SCALES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0)
"""Factors of what is kept; 1 is the paper's."""
TSV_SCALES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""Factors of TSV-M's update, whose best one is above 1 as a rule."""
RESCALED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Factors of task vectors that have the size of whole ones again: task arithmetic's range."""
EXPONENTS = (0.25, 0.5, 1.0, 2.0)
"""Of the soft selection: 0 would be STA, infinity the most important task alone."""
KEPT = (1, 2, 3, 4, 5)
"""Numbers of tasks kept at a position; never more than there are."""
SCHEDULES = tuple(depths for depths in itertools.product((1, 2, 3), repeat=3) if len({*depths}) > 1)
"""Numbers kept in the first, second and last third of the layers; those that are the same in all are in ``KEPT``."""


@dataclass(frozen=True, eq=False)
class Setting:
    """What is merged.

    Attributes:
        base: the pretrained model.
        finetuned: the models of N tasks.
        gradients: per task, ``Σ|g|`` over the samples at its fine-tuned weights, float32, of each trainable entry. The
            keys, the same for every task, say what is merged; everything else is the base's.
    """

    base: dict[str, Tensor]
    finetuned: list[dict[str, Tensor]]
    gradients: list[dict[str, Tensor]]

    @property
    def names(self) -> list[str]:
        """Of the entries that are merged, in the base's order."""
        return [name for name in self.base if name in self.gradients[0]]

    def taus(self, name: str) -> Tensor:
        """Task vectors of an entry, float32 [N, ...]."""
        base = self.base[name].float()
        return torch.stack([model[name].float() - base for model in self.finetuned])

    def sums(self, name: str) -> Tensor:
        """``Σ|g|`` of an entry, [N, ...]."""
        return torch.stack([task[name] for task in self.gradients])

    def importances(self, name: str) -> Tensor:
        """``|θ|·Σ|g|`` of an entry (eq. 12), [N, ...]."""
        return torch.stack([model[name].float().abs() for model in self.finetuned]) * self.sums(name)


@dataclass(frozen=True)
class Variant:
    """One way to merge.

    Attributes:
        name: in files.
        title: in tables.
        merge: from a setting and one of the values to a whole state dict.
        values: of which one is chosen on validation data; a single one where there is nothing to choose.
        needs: where the gradients come from: training samples with their ``gradients``; the same inputs with labels
            ``sampled`` from the model's own predictions; such labels on ``task-free`` inputs.
    """

    name: str
    title: str
    merge: Callable[[Setting, Any], dict[str, Tensor]]
    values: tuple[Any, ...] = (None,)
    needs: Need = "gradients"


Measure = Callable[[Setting, str], Tensor]
"""Importances of an entry, [N, ...]."""


def _of_library(
    setting: Setting, measure: Measure = Setting.importances, counts: dict[str, list[int]] | None = None, **options: Any
) -> dict[str, Tensor]:
    """STA as the library has it, of one measure of importance."""
    names = setting.names
    stacked = {name: measure(setting, name) for name in names}
    merged = sta_kernels.merge(
        {name: setting.base[name] for name in names},
        [{name: model[name] for name in names} for model in setting.finetuned],
        importances=[{name: stacked[name][task] for name in names} for task in range(len(setting.finetuned))],
        counts=counts,
        **options,
    )
    return {**setting.base, **merged}


def _library(measure: Measure = Setting.importances, **options: Any) -> Callable[[Setting, Any], dict[str, Tensor]]:
    """STA at p = 0.7 with some options; there is nothing to choose."""
    return lambda setting, value: _of_library(setting, measure, p=P, **options)


Factors = Callable[[Setting, str, Any], Tensor]
"""What each task's share of an entry is multiplied with: a mask or weights, [N, ...]."""


def _sum(base: Tensor, deltas: Tensor) -> Tensor:
    """``θ0 + Σ δ_i``, added in the tasks' order, rounded once."""
    total = torch.zeros_like(deltas[0])
    for delta in deltas:
        total += delta
    return (base.float() + total).to(base.dtype)


def _by_factors(factors: Factors) -> Callable[[Setting, Any], dict[str, Tensor]]:
    """``θ0 + Σ_i M_i ⊙ τ_i``, M by a function."""

    def merge(setting: Setting, value: Any) -> dict[str, Tensor]:
        return setting.base | {
            name: _sum(setting.base[name], factors(setting, name, value) * setting.taus(name)) for name in setting.names
        }

    return merge


def _by_scores(scores: Measure) -> Callable[[Setting, Any], dict[str, Tensor]]:
    """At each position as many tasks as STA keeps at p = 0.7, by other scores."""
    return _by_factors(lambda setting, name, value: top(scores(setting, name), kept_at(P, len(setting.finetuned))))


def sta_mask(setting: Setting, name: str) -> Tensor:
    """STA's own mask of an entry at p = 0.7, bool [N, ...]."""
    return top(minmax(setting.importances(name)), kept_at(P, len(setting.finetuned)))


def of_taus(setting: Setting, name: str) -> Tensor:
    """``|τ|·Σ|g|``, which is ``Σ|τ·g|`` too, since τ is the same for every sample; [N, ...]."""
    return setting.taus(name).abs() * setting.sums(name)


def _kept(setting: Setting, value: int) -> dict[str, Tensor]:
    return _of_library(setting, keep=min(value, len(setting.finetuned)))


def _scaled(setting: Setting, value: float) -> dict[str, Tensor]:
    return _of_library(setting, p=P, lambda_=value)


_PROJECTION = re.compile(r"(.*\.)(query|key|value)(\.[^.]+)")


def _fused(setting: Setting, value: None) -> dict[str, Tensor]:
    """STA with the projections of an attention joined to one tensor each, as ``in_proj_weight`` holds them."""
    groups: dict[str, list[str]] = {}
    for name in setting.names:
        found = _PROJECTION.fullmatch(name)
        groups.setdefault(f"{found[1]}in_proj{found[3]}" if found else name, []).append(name)
    if len(groups) == len(setting.names):
        raise InputError("fused: no merged entries are named query, key and value; there is nothing to join")

    def joined(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {group: torch.cat([entries[name] for name in names]) for group, names in groups.items()}

    models = [joined(model) for model in setting.finetuned]
    merged = _of_library(Setting(joined(setting.base), models, list(map(joined, setting.gradients))), p=P)
    result = dict(setting.base)
    for group, names in groups.items():
        parts = merged[group].split([len(setting.base[name]) for name in names])
        result.update((name, part.clone()) for name, part in zip(names, parts, strict=True))
    return result


def soft_weights(setting: Setting, name: str, exponent: float) -> Tensor:
    """``(Ĩ_i / max_j Ĩ_j)^exponent`` of the tasks that STA keeps, 0 of the others; [N, ...]."""
    scores = minmax(setting.importances(name))
    highest = scores.amax(0)
    share = torch.where(highest > 0, scores / highest, 0)
    return torch.where(top(scores, kept_at(P, len(scores))), share**exponent, 0)


def _by_depth(setting: Setting, value: tuple[int, int, int]) -> dict[str, Tensor]:
    """STA with another number kept in each third of the layers; outside of any layer, what p = 0.7 keeps."""
    blocks = sorted({block_of(name) for name in setting.names} - {*setting.names}, key=_depth)
    parts: dict[int, list[str]] = {}
    for name in setting.names:
        block = block_of(name)
        keep = kept_at(P, len(setting.finetuned)) if block == name else value[3 * blocks.index(block) // len(blocks)]
        parts.setdefault(min(keep, len(setting.finetuned)), []).append(name)
    result = dict(setting.base)
    for keep, names in parts.items():
        chosen = [{name: task[name] for name in names} for task in setting.gradients]
        merged = _of_library(replace(setting, gradients=chosen), keep=keep)
        result.update((name, merged[name]) for name in names)
    return result


def _depth(block: str) -> int:
    return int(block.rstrip(".").rpartition(".")[2])


def by_number(setting: Setting, name: str, scale: float) -> Tensor:
    """STA's mask divided by the share of a task's entries of the tensor that it keeps; [N, ...]."""
    mask = sta_mask(setting, name)
    share = mask.flatten(1).float().mean(1)
    return scale * _per_task(mask, share)


def by_length(setting: Setting, name: str, scale: float) -> Tensor:
    """STA's mask, grown so that what it keeps of a task has the L1 norm of its whole task vector; [N, ...]."""
    mask, taus = sta_mask(setting, name), setting.taus(name).abs()
    share = (mask * taus).flatten(1).sum(1) / taus.flatten(1).sum(1)
    return scale * _per_task(mask, share)


def _per_task(mask: Tensor, share: Tensor) -> Tensor:
    """Each task's mask divided by a number; all 0 where a task keeps nothing."""
    factor = torch.where(share > 0, 1 / share, 0)
    return mask * factor.view(-1, *(1,) * (mask.dim() - 1))


@functools.lru_cache(maxsize=1)
def masked_singular_vectors(setting: Setting) -> dict[str, Tensor]:
    """``Σ_i M_i ⊙ δ_i``: STA's masks over the tasks' shares of TSV-M's update, float32 by name.

    TSV-M's update of a matrix is ``polar(U)·diag(S)·polar(V)``, and the columns of U and rows of V belong to one task
    each: so it is a sum over tasks, ``δ_i = polar(U)_i·diag(S_i)·polar(V)_i``. Of all else it is the mean of the τ_i.
    One setting's result is remembered, since every scale starts from it.
    """
    merged = {}
    for name in setting.names:
        deltas = singular_shares(setting.taus(name), name)
        merged[name] = _sum(torch.zeros_like(deltas[0]), sta_mask(setting, name) * deltas)
    return merged


def singular_shares(taus: Tensor, name: str) -> Tensor:
    """Each task's share of TSV-M's update, [N, ...]; they add up to it.

    Args:
        taus: [N, ...], of which matrices are decomposed.
        name: of the entry, for errors.
    """
    n_tasks = len(taus)
    if taus.dim() != 3:
        return taus / n_tasks
    rank = rank_of(tuple(taus.shape[1:]), None, n_tasks)
    shares = torch.zeros_like(taus)
    present = [task for task in range(n_tasks) if rank and taus[task].any()]
    if not present:
        return shares
    factors = [linalg.svd(taus[task], name) for task in present]
    left = linalg.polar(torch.cat([u[:, :rank] for u, _, _ in factors], dim=1), name).split(rank, dim=1)
    right = linalg.polar(torch.cat([v[:rank] for _, _, v in factors]), name).split(rank)
    for task, u, (_, s, _), v in zip(present, left, factors, right, strict=True):
        shares[task] = u * s[:rank] @ v
    return shares


def _tsv(setting: Setting, value: float) -> dict[str, Tensor]:
    return setting.base | {
        name: _sum(setting.base[name], value * delta[None]) for name, delta in masked_singular_vectors(setting).items()
    }


def _like_sta(scores: Callable[[Setting, str, Any], Tensor]) -> Callable[[Setting, Any], dict[str, Tensor]]:
    """As many entries of each task and tensor as STA keeps at p = 0.7, by scores within the tensor."""

    def factors(setting: Setting, name: str, value: Any) -> Tensor:
        counts = sta_mask(setting, name).flatten(1).sum(1).tolist()
        return greatest(scores(setting, name, value), counts)

    return _by_factors(factors)


def _random(setting: Setting, name: str, seed: int = 0) -> Tensor:
    return noise((len(setting.finetuned), *setting.base[name].shape), name, seed)


def _magnitudes(setting: Setting, name: str, value: None = None) -> Tensor:
    return setting.taus(name).abs()


def _all() -> Iterator[Variant]:
    yield Variant("sta", f"STA, p = {P}", _library())
    yield Variant("mean", "divided by the mean", _library(normalise="mean"))
    yield Variant("rank", "ranked within the tensor", _by_scores(lambda s, name: ranks(s.importances(name))))
    yield Variant("raw", "not normalised", _by_scores(Setting.importances))
    yield Variant("gradient", "Σ|g| without |θ|", _library(Setting.sums))
    yield Variant("gradient_mean", "Σ|g|, divided by the mean", _library(Setting.sums, normalise="mean"))
    yield Variant("tau", "|τ|·Σ|g| (= Σ|τ·g|)", _library(of_taus))
    yield Variant("tau_mean", "|τ|·Σ|g|, divided by the mean", _library(of_taus, normalise="mean"))
    yield Variant("keep", "another number kept", _kept, KEPT)
    yield Variant("scale", "what is kept, scaled", _scaled, SCALES)
    yield Variant("block", "normalised over the layer", _library(scope="block"))
    yield Variant("block_mean", "divided by the layer's mean", _library(scope="block", normalise="mean"))
    yield Variant("fused", "query, key and value as one tensor", _fused)
    yield Variant("soft", "kept by weight", _by_factors(soft_weights), EXPONENTS)
    yield Variant("depth", "another number kept by depth", _by_depth, SCHEDULES)
    yield Variant("rescale_number", "kept entries, rescaled by their number", _by_factors(by_number), RESCALED)
    yield Variant("rescale_length", "kept entries, rescaled to |τ|'s sum", _by_factors(by_length), RESCALED)
    yield Variant("tsv", "STA's mask over TSV-M's update", _tsv, TSV_SCALES)
    yield Variant("sampled", "labels sampled from the model", _library(), needs="sampled")
    yield Variant("task_free", "labels sampled, task-free inputs", _library(), needs="task-free")
    yield Variant("random", "random entries, as many as STA's", _like_sta(_random), (0,))
    yield Variant("random_position", "random tasks at each position", _by_scores(_random))
    yield Variant("magnitude", "greatest |τ|, as many as STA's", _like_sta(_magnitudes))
    yield Variant("magnitude_position", "greatest |τ| at each position", _by_scores(_magnitudes))


VARIANTS = {variant.name: variant for variant in _all()}
"""By name; ``sta`` is what the others are held against."""
