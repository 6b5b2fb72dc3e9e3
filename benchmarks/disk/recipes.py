"""The recipes that are measured, what each must reach, and the files that each reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.disk.models import IMPORTANCE, WEIGHTS, Family, relabel


@dataclass(frozen=True)
class Recipe:
    """A merge of a family, and its bars.

    Attributes:
        method: of the recipe.
        floor: most that it may take on tmpfs, of the floor, start-up subtracted.
        speedup: least over mergekit, whole commands; None where mergekit has no such method.
        reads: of the inputs that the method needs where nothing is kept of the first: 1 or 2.
        parameters: of the recipe, and ``each``: of each model.
        models: "all" that were fine-tuned, "first", or "base and all", as models.
        base: whether the base is read.
        measure: of the importance that is read of each model; None where none is.
    """

    method: str
    floor: float
    speedup: float | None = None
    reads: int = 2
    parameters: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    models: str = "all"
    base: bool = True
    measure: str | None = None

    def inputs(self, family: Family) -> list[Path]:
        """All files whose every byte a merge must read."""
        paths = [model / WEIGHTS for model in self._models(family)]
        if self.base:
            paths.insert(0, family.base / WEIGHTS)
        if self.measure:
            paths += [model / IMPORTANCE for model in self._models(family)]
        return paths

    def write(self, family: Family, path: Path) -> None:
        """The recipe as a file, JSON being YAML; the same for this project and for mergekit.

        The importances are made to say that they are what it asks for.
        """
        models = []
        for model in self._models(family):
            parameters = dict(self.each)
            if self.measure:
                relabel(model / IMPORTANCE, self.measure)
                parameters["importance"] = str(model / IMPORTANCE)
            models.append({"model": str(model)} | ({"parameters": parameters} if parameters else {}))
        document: dict[str, Any] = {"merge_method": self.method, "models": models, "dtype": "bfloat16"}
        if self.base:
            document["base_model"] = str(family.base)
        if self.parameters:
            document["parameters"] = dict(self.parameters)
        path.write_text(json.dumps(document, indent=2))

    def _models(self, family: Family) -> tuple[Path, ...]:
        return {
            "all": family.models,
            "first": family.models[:1],
            "base and all": (family.base, *family.models),
        }[self.models]


def _other(method: str, **rest: Any) -> Recipe:
    return Recipe(method, 2.5, **rest)


_WEIGHT = {"weight": 0.4}
_HALF = _WEIGHT | {"density": 0.5}
_FIFTH = {"weight": 1.0, "density": 0.2}

RECIPES: dict[str, Recipe] = {
    "linear": Recipe("linear", 1.25, 12, reads=1, each={"weight": 0.2}, models="base and all", base=False),
    "task_arithmetic": Recipe("task_arithmetic", 1.25, 12, reads=1, each=_WEIGHT),
    "sta": Recipe("sta", 1.35, reads=1, parameters={"p": 0.7}, measure="lp"),
    "sta amp": Recipe("sta", 1.8, parameters={"p": 0.7, "measure": "amp"}),
    "dare_linear": Recipe("dare_linear", 1.8, 12, each=_HALF),
    "dare_ties": Recipe("dare_ties", 1.8, 25, each=_HALF),
    "ties": Recipe("ties", 2.2, 60, each=_FIFTH),
    "ties, scope model": Recipe("ties", 2.2, each=_FIFTH, parameters={"scope": "model"}),
    "sta_forget": Recipe("sta_forget", 2.2, parameters={"p": 0.7}, models="first", measure="lp"),
    "breadcrumbs": _other("breadcrumbs", speedup=20, each=_HALF | {"gamma": 0.01}),
    "breadcrumbs_ties": _other("breadcrumbs_ties", speedup=20, each=_HALF | {"gamma": 0.01}),
    "della": _other("della", speedup=20, each=_WEIGHT | {"density": 0.7, "epsilon": 0.07}),
    "della_linear": _other("della_linear", speedup=20, each=_WEIGHT | {"density": 0.7, "epsilon": 0.07}),
    "sce": _other("sce", speedup=20, parameters={"select_topk": 0.5}),
    "slerp": _other("slerp", speedup=20, parameters={"t": 0.5}, models="first"),
    "nearswap": _other("nearswap", speedup=20, reads=1, parameters={"t": 0.001}, models="first"),
    "arcee_fusion": _other("arcee_fusion", speedup=20, models="first"),
    "model_stock": _other("model_stock", speedup=20),
    "multislerp": _other("multislerp", speedup=20, each={"weight": 0.25}),
    "karcher": _other("karcher", speedup=20, models="base and all", base=False),
    "consensus": _other("consensus", reads=1),
    "fisher": _other("fisher", each={"weight": 1.0}, base=False, measure="fisher"),
    "tatr": _other("tatr", measure="gradient"),
    "pcb": _other("pcb"),
}
"""By the name in the table."""
