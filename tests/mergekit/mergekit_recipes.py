"""Random recipes in mergekit's YAML, from a seed, and what their values are at one tensor."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mergekit_checkpoints import Family


@dataclass(frozen=True)
class Range:
    """A number between two, which may be a gradient over the layers."""

    low: float
    high: float

    def draw(self, rng: random.Random) -> Any:
        if rng.random() < 0.6:
            return self.one(rng)
        return [self.one(rng) for _ in range(rng.randint(2, 4))]

    def one(self, rng: random.Random) -> float:
        return round(rng.uniform(self.low, self.high), 3)


@dataclass(frozen=True)
class Among:
    """One of a few values."""

    values: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.values)


FLAG = Among((True, False))
WEIGHT = Range(0.1, 1.2)
DENSITY = Range(0.2, 0.95)


@dataclass(frozen=True)
class Shared:
    """How recipes of a method that both have are drawn.

    Attributes:
        models: least and most, the base not counted.
        base: `required`; `optional`, an origin where it is given; `model`, one more model where it is given; or `none`.
        needed: parameters that have no default in mergekit; per model where `shared` does not list them.
        others: those that have one.
        shared: names of the parameters that hold for all models.
        exact: each entry depends on the entries at its position only, so that roundings alone may differ.
    """

    models: tuple[int, int]
    base: str
    needed: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    exact: bool = False


def _task_arithmetic(**others: Any) -> Shared:
    return Shared(
        (1, 4),
        "required",
        {"weight": WEIGHT},
        {"normalize": FLAG, "lambda": Range(0.5, 1.5), "int8_mask": FLAG, **others},
        ("normalize", "lambda", "int8_mask", "rescale"),
        exact=True,
    )


ALL_KEPT = Among((1, 1.0))
SHARED = {
    "linear": Shared((1, 4), "model", {"weight": WEIGHT}, {"normalize": FLAG}, ("normalize",), exact=True),
    "task_arithmetic": _task_arithmetic(density=DENSITY, rescale=FLAG),
    "ties": _task_arithmetic(density=DENSITY),
    "breadcrumbs": _task_arithmetic(density=DENSITY, gamma=Range(0.01, 0.2)),
    "breadcrumbs_ties": _task_arithmetic(density=DENSITY, gamma=Range(0.01, 0.2)),
    # At random, unless everything is kept: test_mergekit_random looks at the rest.
    "dare_linear": _task_arithmetic(density=ALL_KEPT, rescale=FLAG),
    "dare_ties": _task_arithmetic(density=ALL_KEPT, rescale=FLAG),
    "della": _task_arithmetic(density=ALL_KEPT, epsilon=Range(0.05, 0.2), rescale=FLAG),
    "della_linear": _task_arithmetic(density=ALL_KEPT, epsilon=Range(0.05, 0.2), rescale=FLAG),
    "sce": Shared((2, 4), "required", {}, {"select_topk": Range(0.1, 1.0), "int8_mask": FLAG},
                  ("select_topk", "int8_mask")),
    "model_stock": Shared((2, 4), "required", {}, {"filter_wise": FLAG}, ("filter_wise",)),
    "slerp": Shared((1, 1), "required", {"t": Range(0.0, 1.0)}, {}, ("t",)),
    "nuslerp": Shared((2, 2), "optional", {"weight": WEIGHT}, {"nuslerp_flatten": FLAG, "nuslerp_row_wise": FLAG},
                      ("nuslerp_flatten", "nuslerp_row_wise")),
    "multislerp": Shared((1, 4), "optional", {"weight": WEIGHT}, {"normalize_weights": FLAG}, ("normalize_weights",)),
    "karcher": Shared((1, 4), "model", {}, {"max_iter": Among((3, 10)), "tol": Among((1e-5, 1e-3))},
                      ("max_iter", "tol")),
    "nearswap": Shared((1, 1), "required", {"t": Range(0.001, 0.2)}, {}, ("t",), exact=True),
    "arcee_fusion": Shared((1, 1), "required"),
    "passthrough": Shared((1, 1), "none", {}, {"scale": Range(0.5, 1.5)}, (), exact=True),
}  # fmt: skip


def draw_recipe(method: str, family: Family, seed: str) -> dict[str, Any]:
    """A recipe whose densities give exact decimals and mergekit's floats the same counts."""
    rng = random.Random(f"{method} {seed}")
    while True:
        recipe = _draw(method, family, rng)
        if _counts_agree(recipe, family):
            return recipe


def _draw(method: str, family: Family, rng: random.Random) -> dict[str, Any]:
    drawn = SHARED[method]
    chosen = rng.sample(family.models, rng.randint(*drawn.models))
    models: list[dict[str, Any]] = [{"model": str(path)} for path in chosen]
    everywhere: dict[str, Any] = {}
    for key, values in {**drawn.needed, **drawn.others}.items():
        needed = key in drawn.needed
        if not needed and rng.random() < 0.3:
            continue
        place = "shared" if key in drawn.shared else rng.choice(("shared", "own", "both"))
        if place != "own":
            everywhere[key] = _setting(values, family, rng, whole=True)
        if place != "shared":
            for model in models:
                if place == "own" or rng.random() < 0.5:
                    own = _setting(values, family, rng, whole=needed and place == "own")
                    model.setdefault("parameters", {})[key] = own
    recipe: dict[str, Any] = {"merge_method": method, "models": models, "dtype": "float32"}
    if drawn.base == "required" or (drawn.base in ("optional", "model") and rng.random() < 0.5):
        recipe["base_model"] = str(family.base)
        # An appended base takes the global weight. Where there is none, it must stand among the models with its own.
        alone = drawn.base == "model" and "weight" in drawn.needed and "weight" not in everywhere
        if alone or rng.random() < 0.3:
            listed: dict[str, Any] = {"model": str(family.base)}
            if alone:
                listed["parameters"] = {"weight": WEIGHT.one(rng)}
            models.insert(rng.randint(0, len(models)), listed)
    if everywhere:
        recipe["parameters"] = everywhere
    return recipe


def _setting(values: Any, family: Family, rng: random.Random, *, whole: bool) -> Any:
    """A value, or a list of filters; `whole`: one that gives every tensor a value."""
    if rng.random() < 0.6:
        return values.draw(rng)
    conditions = [{"filter": name, "value": values.draw(rng)} for name in rng.sample(family.filters, rng.randint(1, 2))]
    if whole or rng.random() < 0.5:
        last = {"value": values.draw(rng)}
        conditions.append(last if rng.random() < 0.8 else {"filter": "*", **last})
    return conditions


def value_at(recipe: Mapping[str, Any], key: str, model: int | None, name: str, depth: Fraction, default: Any) -> Any:
    """A parameter at one tensor, numbers as exact decimals: written from mergekit's rules, not from our code."""
    own = [] if model is None else [recipe["models"][model].get("parameters", {})]
    for level in (*own, recipe.get("parameters", {})):
        if key in level and (found := _evaluate(level[key], name, depth)) is not None:
            return found
    return _exact(default)


def _evaluate(setting: Any, name: str, depth: Fraction) -> Any:
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return _exact(setting)
    if isinstance(setting[0], dict):
        for condition in setting:
            if condition.get("filter", "*") == "*" or condition["filter"] in name:
                return _evaluate(condition["value"], name, depth)
        return None
    position = depth * (len(setting) - 1)
    low = int(position)
    high = min(low + 1, len(setting) - 1)
    return (1 - (position - low)) * _exact(setting[low]) + (position - low) * _exact(setting[high])


def _exact(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | str) else Fraction(str(value))


def depth_of(name: str, names: Sequence[str]) -> Fraction:
    """Position of a tensor's layer between the first and the last; 0 outside the layers."""
    layers = {other: int(part) for other in names for part in other.split(".") if part.isdigit()}
    return Fraction(layers[name], max(layers.values())) if name in layers else Fraction(0)


def _counts_agree(recipe: Mapping[str, Any], family: Family) -> bool:
    shapes = family.of(family.base)
    for name, tensor in shapes.items():
        depth = depth_of(name, tuple(shapes))
        for model in range(len(recipe["models"])):
            for key in ("density", "gamma"):
                exact = value_at(recipe, key, model, name, depth, 1)
                # Where the product is whole, a float just below the decimal counts one less.
                if 0 < exact < 1 and (exact * tensor.numel()).denominator == 1:
                    return False
    return True
