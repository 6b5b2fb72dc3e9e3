"""Ten random recipes for every method that mergekit has as well, run by both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from mergekit_checkpoints import Family, read_checkpoint
from mergekit_compare import depends_on_tie, differing
from mergekit_recipes import SHARED, draw_recipe

import sta_kernels as sk
from sta_kernels import methods

if TYPE_CHECKING:
    from conftest import Mergekit

PLACES = ("llama",) * 4 + ("vit",) * 3 + ("tied",) * 2 + ("bfloat16",)


@pytest.mark.parametrize("place", range(len(PLACES)), ids=lambda i: f"{i}-{PLACES[i]}")
@pytest.mark.parametrize("method", sorted(SHARED.keys() & set(methods.names())))
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
        wrong = differing(ours[name].numpy(), tensor.numpy(), operands, exact=SHARED[method].exact)
        if wrong.any():
            unexplained = wrong & ~depends_on_tie(recipe, family, name)
            first = tuple(np.argwhere(unexplained)[0]) if unexplained.any() else ()
            assert not unexplained.any(), (
                f"{name}: {unexplained.sum()} of {wrong.size}, first at {first}: "
                f"{ours[name].numpy()[first]!r}, not {tensor.numpy()[first]!r}\n{path.read_text()}"
            )
            tie_counts[method] = tie_counts.get(method, 0) + int(wrong.sum())
