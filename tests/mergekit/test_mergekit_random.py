"""Methods that draw at random: both keep what they should, as often as they should, and scale it by the same rule.

The base is zero, so that a result shows which entries were kept. Bounds are 4.5 standard deviations; seeds
are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from mergekit_checkpoints import LLAMA, llama_shapes, read_checkpoint, write_checkpoint

import sta_kernels as sk

if TYPE_CHECKING:
    from conftest import Mergekit

ROWS, COLUMNS = 1000, 32
CONFIG = {**LLAMA, "num_hidden_layers": 1, "vocab_size": ROWS, "tie_word_embeddings": False}
LOOKED_AT = ("model.embed_tokens.weight", "lm_head.weight")
"""Two tensors of the same values, in which other entries should be kept."""
N = ROWS * COLUMNS
KEEPING = ("dare_linear", "dare_ties", "della", "della_linear")
Run = Callable[[Mapping[str, Any], str], dict[str, np.ndarray[Any, Any]]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base of zeros, a model of random values, and models of a single value."""
    folder = tmp_path_factory.mktemp("random")
    values = 0.3 * torch.randn((ROWS, COLUMNS), generator=torch.Generator().manual_seed(5)) + 0.1
    fills = {"base": 0.0, "one": 1.0, "two": 2.0, "minus_two": -2.0}
    for name in ("normal", *fills):
        tensors = {
            key: torch.full(shape, fills.get(name, 0.5)) for key, shape in llama_shapes(CONFIG, head=True).items()
        }
        if name == "normal":
            tensors.update((key, values.clone()) for key in LOOKED_AT)
        write_checkpoint(folder / name, tensors, CONFIG)
    return {name: folder / name for name in ("normal", *fills)}


@pytest.fixture(params=["mergekit", "ours"])
def run(request: pytest.FixtureRequest, mergekit: Mergekit, tmp_path: Path) -> Run:
    """One of the two."""

    def merge(recipe: Mapping[str, Any], label: str, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
        path = tmp_path / f"{label}.yaml"
        path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
        if request.param == "mergekit":
            mergekit.merge(path, tmp_path / label, **{"random_seed": 3, **options})
        else:
            sk.merge_checkpoints(path, tmp_path / label, threads=1)
        return {name: tensor.numpy() for name, tensor in read_checkpoint(tmp_path / label).items()}

    return merge


def recipe(checkpoints: Mapping[str, Path], method: str, *models: str, **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": method,
        "base_model": str(checkpoints["base"]),
        "models": [{"model": str(checkpoints[model])} for model in models],
        "parameters": {"weight": 1.0, **parameters},
        "dtype": "float32",
    }


def is_share(count: int, of: int, expected: float) -> bool:
    return bool(abs(count - of * expected) <= 4.5 * np.sqrt(of * expected * (1 - expected)))


@pytest.mark.parametrize("density", [0.3, 0.7])
@pytest.mark.parametrize("method", KEEPING)
def test_share_kept_and_norm_restored(method: str, density: float, run: Run, checkpoints: dict[str, Path]):
    merged = run(recipe(checkpoints, method, "normal", density=density), "merged")
    values = read_checkpoint(checkpoints["normal"])[LOOKED_AT[0]].numpy()
    kept = [merged[name] != 0 for name in LOOKED_AT]
    for name, mask in zip(LOOKED_AT, kept, strict=True):
        result = merged[name].astype(np.float64)
        assert is_share(int(mask.sum()), N, density)
        factors = result[mask] / values[mask]
        assert np.ptp(factors) <= 1e-6 * factors[0]
        assert np.abs(result).sum() == pytest.approx(np.abs(values).sum(dtype=np.float64), rel=1e-5)
        if method.startswith("dare"):
            size = np.abs(values.astype(np.float64))
            spread = 4.5 * np.sqrt((1 / density - 1) / N)  # of a kept sum over its expectation, for each unit of below
            first = np.sqrt(np.mean(size**2)) / size.mean()
            second = np.sqrt(np.mean(size**4)) / np.mean(size**2)
            assert factors[0] == pytest.approx(1 / density, rel=spread * first)
            assert abs(result.mean() - values.mean(dtype=np.float64)) <= spread * np.sqrt(np.mean(size**2))
            assert np.mean(result**2) == pytest.approx(np.mean(size**2) / density, rel=spread * (2 * first + second))
    if method.startswith("dare"):
        assert is_share(int((kept[0] & kept[1]).sum()), N, density**2), "the tensors' draws depend on each other"


@pytest.mark.parametrize("method", KEEPING)
def test_values_stay_without_rescaling(method: str, run: Run, checkpoints: dict[str, Path]):
    merged = run(recipe(checkpoints, method, "normal", density=0.5, rescale=False), "merged")
    values = read_checkpoint(checkpoints["normal"])[LOOKED_AT[0]].numpy()
    for name in LOOKED_AT:
        assert set(np.unique(merged[name][merged[name] != 0] / values[merged[name] != 0])) == {1.0}


@pytest.mark.parametrize("method", [name for name in KEEPING if name.startswith("della")])
def test_della_keeps_large_entries_more_often(method: str, run: Run, checkpoints: dict[str, Path]):
    density, epsilon = 0.4, 0.2
    merged = run(recipe(checkpoints, method, "normal", density=density, epsilon=epsilon), "merged")
    values = read_checkpoint(checkpoints["normal"])[LOOKED_AT[0]].numpy()
    rank = np.abs(values).argsort(axis=1).argsort(axis=1)  # in the row
    for name in LOOKED_AT:
        kept = merged[name] != 0
        for place in range(COLUMNS):
            chance = density - epsilon + 2 * epsilon * place / (COLUMNS - 1)
            assert is_share(int(kept[rank == place].sum()), ROWS, chance), place


@pytest.mark.parametrize("method", [name for name in KEEPING if name.startswith("dare")])
def test_dare_draws_for_each_model_alone_and_elects(method: str, run: Run, checkpoints: dict[str, Path]):
    density = 0.4
    both = run(recipe(checkpoints, method, "one", "two", density=density, rescale=False), "both")
    against = run(recipe(checkpoints, method, "one", "minus_two", density=density, rescale=False), "against")
    none, first, second = (1 - density) ** 2, density * (1 - density), density * (1 - density)
    for name in LOOKED_AT:
        shares = {value: int((both[name] == value).sum()) for value in (0, 1, 2, 3)}
        assert sum(shares.values()) == N
        for value, expected in zip((0, 1, 2, 3), (none, first, second, density**2), strict=True):
            assert is_share(shares[value], N, expected), value
        wanted = {0: none, 1: first, -2: density} if method == "dare_ties" else {0: none, 1: first, -2: second}
        for value, expected in wanted.items():
            assert is_share(int((against[name] == value).sum()), N, expected), value


@pytest.mark.parametrize("method", KEEPING)
def test_same_seed_same_result(method: str, run: Run, checkpoints: dict[str, Path]):
    wanted = recipe(checkpoints, method, "normal", density=0.5)
    first, again = run(wanted, "first"), run(wanted, "again")
    for name in LOOKED_AT:
        assert np.array_equal(first[name], again[name])


@pytest.mark.parametrize("method", [name for name in KEEPING if name.startswith("dare")])
def test_rescaling_by_the_keep_rate_is_ours(method: str, checkpoints: dict[str, Path], tmp_path: Path):
    """The paper's rule: the result is the model's in expectation, entry by entry."""
    results = []
    for seed in range(2):
        wanted = recipe(checkpoints, method, "normal", density=0.25, rescale="keep_rate", seed=seed)
        sk.merge_checkpoints(wanted, tmp_path / str(seed), threads=1)
        results.append(read_checkpoint(tmp_path / str(seed))[LOOKED_AT[0]].numpy())
    values = read_checkpoint(checkpoints["normal"])[LOOKED_AT[0]].numpy()
    for result in results:
        assert np.array_equal(result[result != 0], 4 * values[result != 0])
    assert is_share(int(((results[0] != 0) & (results[1] != 0)).sum()), N, 0.25**2), "seeds change nothing"
