"""Ten random recipes for every method that mergekit has as well, run by both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from mergekit_checkpoints import Family, read_checkpoint
from mergekit_compare import differing, slack_of_ties
from mergekit_recipes import SHARED, draw_recipe

import sta_kernels as sk

if TYPE_CHECKING:
    from conftest import Mergekit

PLACES = ("llama",) * 4 + ("vit",) * 3 + ("tied",) * 2 + ("bfloat16",)


@pytest.mark.parametrize("place", range(len(PLACES)), ids=lambda i: f"{i}-{PLACES[i]}")
@pytest.mark.parametrize("method", sorted(SHARED))
def test_same_result(
    method: str, place: int, mergekit: Mergekit, families: dict[str, Family], tmp_path: Path, tie_counts: dict[str, int]
):
    family = families[PLACES[place]]
    recipe = draw_recipe(method, family, str(place))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    mergekit.merge(path, tmp_path / "theirs")
    sk.merge_checkpoints(path, tmp_path / "ours", threads=1)
    ours, theirs = read_checkpoint(tmp_path / "ours"), read_checkpoint(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    models = {model["model"] for model in recipe["models"]} | {recipe.get("base_model", recipe["models"][0]["model"])}
    for name, tensor in theirs.items():
        operands = [family.of(model)[name].numpy() for model in models]
        results = (ours[name].numpy(), tensor.numpy())
        beyond = differing(*results, operands, exact=SHARED[method].exact)
        if beyond.any():
            slack = slack_of_ties(recipe, family, name)
            wrong = differing(*results, operands, exact=SHARED[method].exact, slack=slack)
            first = tuple(np.argwhere(wrong)[0]) if wrong.any() else ()
            assert not wrong.any(), (
                f"{name}: {wrong.sum()} of {wrong.size}, first at {first}: "
                f"{results[0][first]!r}, not {results[1][first]!r}\n{path.read_text()}"
            )
            tie_counts[method] = tie_counts.get(method, 0) + int(beyond.sum())
