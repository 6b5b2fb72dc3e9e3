"""Values that would corrupt a model without a word: not finite, overflowing, of another model, of no use."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
from attacks.victim import Attack, Victim, floats, safetensors, weights

from sta_kernels.checkpoint.sample import sample_of

NAN, INF = float("nan"), float("inf")
Tensor = tuple[str, tuple[int, ...], bytes]


def put(path: str, **tensors: Tensor | None) -> Callable[[Victim], None]:
    """Other tensors in one of the victim's files; None takes one away."""

    def plant(victim: Victim) -> None:
        shift = ("base", "model", "other").index(path.split("/")[0])
        table = dict(weights(shift))
        if "importance" in path:
            table = {
                "layer.weight": ("F32", (2, 3), floats(*(i * shift % 5 for i in range(6)))),
                "layer.bias": ("F32", (2,), floats(0, shift)),
            }
        for name, tensor in tensors.items():
            name = name.replace("__", ".")
            if tensor is None:
                del table[name]
            else:
                table[name] = tensor
        (victim.folder / path).write_bytes(safetensors(table))

    return plant


def value(name: str, message: str, path: str, code: int = 2, **tensors: Tensor | None) -> Attack:
    """A file with other tensors."""
    return Attack("values and shapes", name, put(path, **tensors), message, code)


def both(*plants: Callable[[Victim], None]) -> Callable[[Victim], None]:
    """One after the other."""

    def plant(victim: Victim) -> None:
        for each in plants:
            each(victim)

    return plant


def everywhere(dtype: str, *values: float) -> Callable[[Victim], None]:
    """A bias of these values in all models, written as that dtype."""

    def plant(victim: Victim) -> None:
        for path in ("base", "model", "other"):
            put(f"{path}/model.safetensors", layer__bias=("F32", (2,), floats(*values)))(victim)
        victim.write_recipe(dtype=dtype)

    return plant


def doubled(victim: Victim) -> None:
    """A recipe that adds twice what the first model learned."""
    model = {"model": str(victim.model), "parameters": {"weight": 2}}
    victim.write_recipe(merge_method="task_arithmetic", models=[model])


LARGEST = 3.4028234663852886e38
BAD = {"base": "base/model", "model": "model/model", "importance": "model/importance"}

VALUES = [
    *(value(f"{what} in the {file}'s tensor", f"is {what} at \\[1, 2\\]", f"{path}.safetensors",
            layer__weight=("F32", (2, 3), floats(1, 2, 3, 4, 5, number)))
      for file, path in BAD.items() for what, number in (("nan", NAN), ("inf", INF), ("-inf", -INF))),
    Attack("values and shapes", "overflow of float16", everywhere("float16", 1, 1e5), "overflows float16 at \\[1\\]"),
    Attack("values and shapes", "overflow of bfloat16", everywhere("bfloat16", 1, LARGEST),
           "overflows bfloat16 at \\[1\\]"),
    Attack("values and shapes", "overflow of float32", both(
        put("model/model.safetensors", layer__bias=("F32", (2,), floats(0, LARGEST))), doubled),
        "overflows float32 at \\[1\\]"),
    Attack("values and shapes", "overflow in a copied tensor", both(
        put("base/model.safetensors", layer__bias=("F32", (2,), floats(1, LARGEST))),
        lambda victim: victim.write_recipe(dtype="bfloat16", exclude=["layer.bias"])), "overflows bfloat16 at \\[1\\]"),
    value("a shape that differs", "\\[3, 2\\].*\\[2, 3\\]", "model/model.safetensors",
          layer__weight=("F32", (3, 2), floats(*range(6)))),
    value("a transposed importance", "\\[3, 2\\]", "model/importance.safetensors",
          layer__weight=("F32", (3, 2), floats(*range(6)))),
    value("a tensor that is missing", "'layer.bias'", "model/model.safetensors", layer__bias=None),
    value("a tensor that the base lacks", "'classifier'", "model/model.safetensors",
          classifier=("F32", (1,), floats(1))),
    value("an importance that is missing", "'layer.bias'", "model/importance.safetensors", layer__bias=None),
    value("a negative importance", "never negative", "model/importance.safetensors",
          layer__bias=("F32", (2,), floats(1, -1))),
    value("weights in another element type's bytes", "dtype|F8|integers|I32", "model/model.safetensors",
          layer__bias=("I32", (2,), bytes(8))),
    value("a counter that differs", "'steps' differs", "model/model.safetensors", 0,
          steps=("I64", (1,), (8).to_bytes(8, "little"))),
    Attack("values and shapes", "a model that equals the base", lambda victim: (victim.model / "model.safetensors")
           .write_bytes(safetensors(weights(0))) and None, "equals the base in every merged tensor", 0),
]  # fmt: skip


def importance(name: str, message: str, plant: Callable[[Victim], None], code: int = 2) -> Attack:
    """Something wrong with an importance."""
    return Attack("importances", name, plant, message, code)


def metadata(victim: Victim, table: Mapping[str, str], path: str = "model") -> None:
    """An importance with this metadata."""
    tensors = {
        "layer.weight": ("F32", (2, 3), floats(*(i % 5 for i in range(6)))),
        "layer.bias": ("F32", (2,), floats(0, 1)),
    }
    (victim.folder / path / "importance.safetensors").write_bytes(safetensors(tensors, table))


KNOWN = {
    "sta_kernels.importance": "1",
    "sta_kernels.measure": "lp",
    "sta_kernels.samples": "8",
    "sta_kernels.model_digest": "0" * 32,
    "sta_kernels.version": "0.1.0",
    "sta_kernels.statistics": json.dumps({"layer.weight": [0, 4, 10 / 6], "layer.bias": [0, 1, 0.5]}),
}


def described(name: str, message: str, code: int = 2, **keys: str) -> Attack:
    """An importance whose metadata says something else."""
    table = {**KNOWN, **{f"sta_kernels.{key}": value for key, value in keys.items()}}
    return importance(name, message, lambda victim: metadata(victim, table), code)


def swapped(victim: Victim) -> None:
    """Each task's importance is the other's, as the files themselves say."""
    for path, shift in (("model", 2), ("other", 1)):
        table = {
            name: np.frombuffer(data, "<f4") for name, (dtype, _, data) in weights(shift).items() if dtype == "F32"
        }
        sizes = {name: len(values) for name, values in table.items()}
        sample = sample_of(sizes, lambda name, first, count, table=table: table[name][first : first + count])
        metadata(victim, {**KNOWN, "sta_kernels.model_sample": sample}, path)


def of_a_stranger(victim: Victim) -> None:
    metadata(victim, {**KNOWN, "sta_kernels.model_sample": "f" * 32})


def constant(*numbers: float) -> Callable[[Victim], None]:
    """An importance that is one number per tensor."""
    return put("model/importance.safetensors", layer__weight=("F32", (2, 3), floats(*numbers[:1] * 6)),
               layer__bias=("F32", (2,), floats(*numbers[1:] * 2)))  # fmt: skip


def instead(one: str, other: str) -> Callable[[Victim], None]:
    """A recipe that names another file."""

    def plant(victim: Victim) -> None:
        victim.recipe.write_text(victim.recipe.read_text().replace(one, other))

    return plant


DAMAGED = "damaged importance metadata"

IMPORTANCES = [
    described("statistics that its tensors belie", "do not describe its tensors",
              statistics=json.dumps({"layer.weight": [0, 9, 1], "layer.bias": [0, 1, 0.5]})),
    described("statistics that are no JSON", DAMAGED, statistics="{"),
    described("statistics as depth bomb", DAMAGED, statistics='{"a":' * 200_000),
    described("statistics upside down", DAMAGED, statistics='{"layer.bias": [2, 1, 1]}'),
    described("statistics of digits", DAMAGED, statistics='{"layer.bias": [' + "9" * 100_000 + ", 1, 1]}"),
    described("an unknown measure", DAMAGED, measure="x"),
    described("samples of 100,000 digits", DAMAGED, samples="9" * 100_000),
    described("a newer format", "importance format", importance="2"),
    importance("of the other task", "was made of", swapped),
    importance("of another model", "was not made of", of_a_stranger, 0),
    importance("all zero", "the same everywhere in each tensor", constant(0, 0), 0),
    importance("constant", "the same everywhere in each tensor", constant(3, 5), 0),
    importance("the same for two models", "the same importance", instead("other/importance", "model/importance"), 0),
    importance("weights in its place", "are the weights of", instead("model/importance.", "model/model.")),
]  # fmt: skip
