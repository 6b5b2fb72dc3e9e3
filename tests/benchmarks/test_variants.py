"""Variants of STA for the accuracy runs: against the worked example, the library, and loops over single positions."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))

import sta_kernels
from benchmarks.accuracy.offline import masks, variants
from benchmarks.accuracy.offline.variants import VARIANTS, Setting
from sta_kernels.errors import InputError

SHAPES = {
    f"blocks.{i}.attn.{part}": (6, 4) for i in range(3) for part in ("query.weight", "key.weight", "value.weight")
}
SHAPES |= {f"blocks.{i}.attn.{part}": (6,) for i in range(3) for part in ("query.bias", "key.bias", "value.bias")}
SHAPES |= {f"blocks.{i}.norm.weight": (9,) for i in range(3)} | {"blocks.1.conv.weight": (3, 2, 2, 2), "out": (5, 5)}
N_TASKS = 4


@pytest.fixture(scope="module")
def setting() -> Setting:
    generator = torch.Generator().manual_seed(7)

    def random(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator)

    base = {name: random(shape) for name, shape in SHAPES.items()}
    finetuned = [{name: x + 0.1 * random(tuple(x.shape)) for name, x in base.items()} for _ in range(N_TASKS)]
    gradients = [{name: random(tuple(x.shape)).abs() for name, x in base.items()} for _ in range(N_TASKS)]
    frozen = {"embedding": random((4,)), "steps": torch.tensor(3)}
    return Setting(frozen | base, [frozen | model for model in finetuned], gradients)


def merged(setting: Setting, name: str, value: Any = ...) -> dict[str, Tensor]:
    variant = VARIANTS[name]
    return variant.merge(setting, variant.values[0] if value is ... else value)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def masked(setting: Setting, mask: Any) -> dict[str, Tensor]:
    """θ0 + Σ M ⊙ τ by a loop over tasks, M of an entry by a function."""
    result = dict(setting.base)
    for name in SHAPES:
        total = torch.zeros(SHAPES[name])
        for task, chosen in zip(setting.finetuned, mask(name), strict=True):
            total += torch.where(chosen, task[name] - setting.base[name], 0)
        result[name] = setting.base[name] + total
    return result


def loops(setting: Setting, measure: Any, normalise: Any) -> Any:
    """Masks of an entry, position by position in exact fractions: above the second largest of four, at p = 0.7."""

    def mask(name: str) -> list[Tensor]:
        rows = [
            normalise([Fraction(float(x)) for x in measure(task, name).flatten()])
            for task in range(len(setting.gradients))
        ]
        chosen = [[x > sorted(column)[2] for x in column] for column in zip(*rows, strict=True)]
        return [torch.tensor(row).view(SHAPES[name]) for row in zip(*chosen, strict=True)]

    return mask


def by_range(row: list[Fraction]) -> list[Fraction]:
    return [(x - min(row)) / (max(row) - min(row)) for x in row]


def by_mean(row: list[Fraction]) -> list[Fraction]:
    return [x * len(row) / sum(row) for x in row]


def by_rank(row: list[Fraction]) -> list[Fraction]:
    return [Fraction(sum(other < x for other in row)) for x in row]


def unchanged(row: list[Fraction]) -> list[Fraction]:
    return row


def lp(setting: Setting) -> Any:
    return lambda task, name: setting.finetuned[task][name].abs() * setting.gradients[task][name]


def gradient(setting: Setting) -> Any:
    return lambda task, name: setting.gradients[task][name]


def tau(setting: Setting) -> Any:
    return lambda task, name: (setting.finetuned[task][name] - setting.base[name]).abs() * setting.gradients[task][name]


def magnitude(setting: Setting) -> Any:
    return lambda task, name: (setting.finetuned[task][name] - setting.base[name]).abs()


def test_masks_of_the_worked_example(FX: Any) -> None:
    parts = [torch.from_numpy(FX.importances_a), torch.from_numpy(FX.importances_b)]
    found = torch.cat([masks.top(masks.minmax(part), masks.kept_at(0.7, 3)) for part in parts], dim=1)
    assert found.int().tolist() == [[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 1, 0]]
    less = torch.cat([masks.top(masks.minmax(part), masks.kept_at(0.3, 3)) for part in parts], dim=1)
    assert less.int().tolist() == [[0, 1, 0, 1, 0, 0], [0, 0, 0, 1, 0, 1], [0, 1, 0, 0, 1, 0]]
    assert (FX.base + (found.numpy() * FX.taus).sum(0)).tolist() == [1, -2, 0.5, 0.375, 3, -1.125]


def test_numbers_kept_are_the_papers() -> None:
    assert [masks.kept_at(0.7, n) for n in (*range(1, 9), 20)] == [0, 1, 1, 1, 2, 2, 2, 3, 6]


def test_ranks_of_equal_entries_are_equal() -> None:
    assert masks.ranks(torch.tensor([[5.0, 1.0, 5.0, 0.0]])).tolist() == [[0.5, 0.25, 0.5, 0.0]]


def test_greatest_takes_the_first_of_equal_entries() -> None:
    found = masks.greatest(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), (1, 2))
    assert found.tolist() == [[False, True, False], [True, True, False]]


def test_sta_is_the_librarys_merge(setting: Setting) -> None:
    importances = [{name: lp(setting)(task, name) for name in SHAPES} for task in range(N_TASKS)]
    plain = sta_kernels.merge(setting.base, setting.finetuned, importances=importances, exclude=["embedding"])
    assert same(merged(setting, "sta"), plain)
    assert same(variants._by_factors(lambda s, name, _: variants.sta_mask(s, name))(setting, None), plain)


@pytest.mark.parametrize(
    ("name", "measure", "normalise"),
    [
        ("sta", lp, by_range),
        ("mean", lp, by_mean),
        ("rank", lp, by_rank),
        ("raw", lp, unchanged),
        ("gradient", gradient, by_range),
        ("gradient_mean", gradient, by_mean),
        ("tau", tau, by_range),
        ("tau_mean", tau, by_mean),
        ("magnitude_position", magnitude, unchanged),
    ],
)
def test_variants_of_the_score_are_what_loops_find(setting: Setting, name: str, measure: Any, normalise: Any) -> None:
    # Among four tasks p = 0.7 keeps what lies above the third smallest.
    assert masks.kept_at(0.7, N_TASKS) == 1
    assert same(merged(setting, name), masked(setting, loops(setting, measure(setting), normalise)))


def test_abs_of_tau_times_each_gradient_is_abs_of_tau_times_their_sum() -> None:
    generator = torch.Generator().manual_seed(3)
    gradients, tau = torch.randn((32, 50), generator=generator), torch.randn(50, generator=generator)
    empty = {"w": torch.zeros(50)}
    one = Setting(empty, [{"w": tau}], [{"w": gradients.abs().sum(0)}])
    torch.testing.assert_close(variants.of_taus(one, "w")[0], (tau * gradients).abs().sum(0), rtol=1e-5, atol=0)


def test_numbers_kept_go_from_one_task_to_all(setting: Setting) -> None:
    assert same(merged(setting, "keep", 1), merged(setting, "sta"))
    assert same(
        merged(setting, "keep", 4), masked(setting, lambda name: torch.ones((4, *SHAPES[name]), dtype=torch.bool))
    )
    assert same(merged(setting, "keep", 4), merged(setting, "keep", 5))


def test_scale_multiplies_what_sta_adds(setting: Setting) -> None:
    plain, double = merged(setting, "sta"), merged(setting, "scale", 2.0)
    for name in SHAPES:
        added = plain[name] - setting.base[name]
        torch.testing.assert_close(double[name] - setting.base[name], 2 * added, rtol=1e-4, atol=1e-6)
    assert same(merged(setting, "scale", 1.0), plain)


def check_joined(setting: Setting, result: dict[str, Tensor], names: list[str], normalise: Any) -> None:
    """The entries are merged as one tensor would be, in exact fractions."""
    rows = [
        normalise([Fraction(float(x)) for name in names for x in lp(setting)(task, name).flatten()])
        for task in range(N_TASKS)
    ]
    chosen = torch.tensor([[x > sorted(column)[2] for x in column] for column in zip(*rows, strict=True)]).T
    taus = torch.cat([setting.taus(name).flatten(1) for name in names], dim=1)
    expected = torch.cat([setting.base[name].flatten() for name in names]) + (chosen * taus).sum(0)
    torch.testing.assert_close(torch.cat([result[name].flatten() for name in names]), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "normalise"), [("block", by_range), ("block_mean", by_mean)])
def test_a_layer_is_normalised_as_one_tensor(setting: Setting, name: str, normalise: Any) -> None:
    result = merged(setting, name)
    for prefix in ("blocks.0.", "blocks.1.", "blocks.2.", "out"):
        check_joined(setting, result, [each for each in SHAPES if each.startswith(prefix)], normalise)


def test_fused_normalises_the_projections_of_an_attention_together(setting: Setting) -> None:
    result, plain = merged(setting, "fused"), merged(setting, "sta")
    check_joined(setting, result, [f"blocks.0.attn.{part}.weight" for part in ("query", "key", "value")], by_range)
    assert torch.equal(result["out"], plain["out"])
    with pytest.raises(InputError, match="nothing to join"):
        merged(Setting(setting.base, setting.finetuned, [{"out": task["out"]} for task in setting.gradients]), "fused")


def test_soft_weights_lie_between_the_first_task_and_stas_mask() -> None:
    base = {"w": torch.zeros(3)}
    theta = {"w": torch.ones(3)}
    # N = 5 keeps two: at the middle position scores 1/2 and 1/4, at the last one 1 each.
    sums = ((0, 2, 4), (0, 1, 4), (0, 0, 4), (0, 0, 4), (0, 0, 4))
    one = Setting(base, [theta] * 5, [{"w": torch.tensor(row, dtype=torch.float32)} for row in sums])
    weights = variants.soft_weights(one, "w", 0.5)
    torch.testing.assert_close(weights[:, 1], torch.tensor([1, 0.5**0.5, 0, 0, 0]))
    assert not weights[:, [0, 2]].any()
    assert torch.equal(variants.soft_weights(one, "w", 0.0) > 0, variants.sta_mask(one, "w"))


def test_numbers_kept_go_by_thirds_of_the_depth(setting: Setting) -> None:
    result = merged(setting, "depth", (1, 3, 2))
    for prefix, keep in (("blocks.0.", 1), ("blocks.1.", 3), ("blocks.2.", 2), ("out", 1)):
        plain = merged(setting, "keep", keep)
        for name in SHAPES:
            if name.startswith(prefix):
                assert torch.equal(result[name], plain[name]), name
    assert (2, 2, 2) not in variants.SCHEDULES
    assert len(variants.SCHEDULES) == 24


def test_rescaled_masks_restore_number_and_length(setting: Setting) -> None:
    for name in SHAPES:
        mask, taus = variants.sta_mask(setting, name), setting.taus(name)
        number = variants.by_number(setting, name, 0.5)
        assert torch.equal(number != 0, mask)
        found = number.flatten(1).sum(1)
        expected = torch.where(mask.flatten(1).any(1), 0.5 * mask[0].numel(), 0.0)
        torch.testing.assert_close(found, expected)
        length = (variants.by_length(setting, name, 1.0) * taus).abs().flatten(1).sum(1)
        torch.testing.assert_close(length, torch.where(mask.flatten(1).any(1), taus.abs().flatten(1).sum(1), 0.0))


def test_nothing_kept_is_nothing_rescaled() -> None:
    zero = Setting({"w": torch.ones(4)}, [{"w": torch.ones(4)}] * 2, [{"w": torch.zeros(4)}] * 2)
    for name in ("rescale_number", "rescale_length", "soft", "tsv"):
        assert torch.equal(merged(zero, name)["w"], torch.ones(4)), name


def test_shares_of_singular_vectors_add_up_to_tsv_m(setting: Setting) -> None:
    whole = sta_kernels.merge(setting.base, setting.finetuned, method="tsv_m", exclude=["embedding"])
    for name in SHAPES:
        total = variants.singular_shares(setting.taus(name), name).sum(0)
        torch.testing.assert_close(setting.base[name] + total, whole[name], rtol=1e-5, atol=1e-5)
    assert not variants.singular_shares(torch.zeros(4, 6, 6), "w").any()


def test_stas_mask_lies_over_the_shares_of_singular_vectors(setting: Setting) -> None:
    result = merged(setting, "tsv", 2.0)
    for name in SHAPES:
        shares = variants.singular_shares(setting.taus(name), name)
        total = (shares * variants.sta_mask(setting, name)).sum(0)
        torch.testing.assert_close(result[name], setting.base[name] + 2 * total, rtol=0, atol=1e-6)
    assert not torch.equal(merged(setting, "tsv", 1.0)["out"], result["out"])


@pytest.mark.parametrize("scores", [variants._random, variants._magnitudes])
def test_controls_keep_as_many_entries_as_sta(setting: Setting, scores: Any) -> None:
    name = {variants._random: "random", variants._magnitudes: "magnitude"}[scores]

    def chosen(entry: str) -> Tensor:
        counts = [int(mask.sum()) for mask in variants.sta_mask(setting, entry)]
        rows = scores(setting, entry).flatten(1)
        return torch.stack(
            [
                (row >= row.sort(descending=True).values[count - 1]) & (count > 0)
                for row, count in zip(rows, counts, strict=True)
            ]
        ).view(N_TASKS, *SHAPES[entry])

    assert same(merged(setting, name), masked(setting, chosen))


def test_random_masks_go_by_tensor_and_seed(setting: Setting) -> None:
    drawn = [masks.noise((4, 50), name, seed) for name, seed in (("a", 0), ("b", 0), ("a", 1))]
    assert torch.equal(drawn[0], masks.noise((4, 50), "a", 0))
    assert not any(torch.equal(drawn[0], other) for other in drawn[1:])
    kept = masks.top(drawn[0], 1)
    assert bool((kept.sum(0) == 1).all())
    assert np.ptp(kept.sum(1).numpy()) < 25


def test_every_variant_leaves_the_setting_and_frozen_entries_alone(setting: Setting) -> None:
    before = [{name: x.clone() for name, x in model.items()} for model in (setting.base, *setting.finetuned)]
    for name, variant in VARIANTS.items():
        assert name == variant.name
        result = variant.merge(setting, variant.values[-1])
        assert list(result) == list(setting.base)
        assert torch.equal(result["embedding"], setting.base["embedding"])
        assert all(result[entry].isfinite().all() for entry in SHAPES)
        assert not torch.equal(result["out"], setting.base["out"]), name
    after = (setting.base, *setting.finetuned)
    assert all(same(one, other) for one, other in zip(before, after, strict=True))
    assert {variant.needs for variant in VARIANTS.values()} == {"gradients", "sampled", "task-free"}
    assert len({variant.title for variant in VARIANTS.values()}) == len(VARIANTS)
