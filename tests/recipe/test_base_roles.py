"""How a recipe's base enters: as the origin, as an origin that may be missing, or as one more model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sta_kernels import Recipe
from sta_kernels.errors import InputError


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path


def read(method: str, *models: str, base: str | None = None, **parameters: Any) -> tuple[list[str], str | None]:
    recipe = {"merge_method": method, "models": [{"model": name} for name in models], "parameters": parameters}
    parsed = Recipe.parse({**recipe, "base_model": base} if base else recipe)
    return [Path(spec.model).name for spec in parsed.models], parsed.base and Path(parsed.base).name


@pytest.mark.parametrize("listed", [("a",), ("base", "a"), ("a", "base")])
@pytest.mark.parametrize(("method", "values"), [("slerp", {"t": [0, 0.5, 1]}), ("nearswap", {"t": 0.1})])
def test_the_base_among_the_models_is_no_model(models: Path, method: str, values: Any, listed: tuple[str, ...]):
    assert read(method, *listed, base="base", **values) == (["a"], "base")


@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
def test_an_origin_may_be_missing(models: Path, method: str):
    assert read(method, "a", "b") == (["a", "b"], None)
    assert read(method, "a", "b", base="base") == (["a", "b"], "base")


def test_with_slices_an_origin_that_is_named_stands_in_every_slice(models: Path):
    def sliced(base: bool, *names: str) -> Recipe:
        sources = [{"model": name, "layer_range": [0, 2]} for name in names]
        recipe = {"merge_method": "nuslerp", "slices": [{"sources": sources}]}
        return Recipe.parse({**recipe, "base_model": "base"} if base else recipe)

    assert sliced(False, "a", "b").base is None
    assert sliced(True, "base", "a", "b").slices[0].base_start == 0
    with pytest.raises(InputError, match="the base is not among the sources"):
        sliced(True, "a", "b")


def test_karcher_takes_the_base_as_one_more_model(models: Path):
    assert read("karcher", "a", "b", base="base")[0] == ["a", "b", "base"]
    assert read("karcher", "a", "base", "b", base="base")[0] == ["a", "base", "b"]
    assert read("karcher", "a", "b")[0] == ["a", "b"]


def test_what_reads_no_base_at_all_leaves_it_out(models: Path):
    assert read("passthrough", "a", base="base")[0] == ["a"]
