"""Somebody with a recipe and the checkpoints it names, some of which an attacker made."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SECRET = b"an outsider must not read this: 6f1c"
BEHIND = "SECRET"
"""Stands for the secret's path in content that an attacker wrote."""


@dataclass(frozen=True)
class Attack:
    """Something hostile, and what must come of it.

    Attributes:
        family: what kind of thing is hostile.
        name: what is wrong with it.
        plant: puts it among the victim's files; returns the command line where it is not the usual merge.
        message: pattern of what is printed.
        code: exit code: 2 refused, 1 a difference was found or the file system said no, 0 harmless.
        unharmed: what must hold afterwards besides what holds after every attack.
    """

    family: str
    name: str
    plant: Callable[[Victim], Sequence[str] | None]
    message: str
    code: int = 2
    unharmed: Callable[[Victim], bool] = lambda victim: True


def floats(*values: float) -> bytes:
    """Little-endian float32."""
    return struct.pack(f"<{len(values)}f", *values)


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int], bytes]], metadata: Mapping[str, str] = {}) -> bytes:
    """A well-formed file; per tensor dtype, shape, and bytes."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def weights(shift: float = 0.0) -> dict[str, tuple[str, Sequence[int], bytes]]:
    """Two tensors and a counter, as a model of the victim's."""
    return {
        "layer.weight": ("F32", (2, 3), floats(*(shift + i for i in range(6)))),
        "layer.bias": ("F32", (2,), floats(shift, -shift)),
        "steps": ("I64", (1,), struct.pack("<q", 7)),
    }


class Victim:
    """A base, two models with importances, a recipe, and things that are none of a merge's business.

    Attributes:
        folder: of it all.
        base: the base's folder.
        model: the first model's folder.
        out: the output folder, not made yet.
        recipe: the recipe's file.
        secret: a file that no input names.
        canary: a file that appears where an attacker's code was run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base, self.model, self.other = (folder / name for name in ("base", "model", "other"))
        self.out = folder / "out"
        self.recipe = folder / "recipe.yaml"
        self.secret = folder / "private" / "secret.bin"
        self.canary = folder / "canary"
        for shift, path in enumerate((self.base, self.model, self.other)):
            path.mkdir(parents=True)
            (path / "model.safetensors").write_bytes(safetensors(weights(shift)))
            (path / "config.json").write_text('{"model_type": "toy"}')
        for shift, path in ((1, self.model), (2, self.other)):
            tensors = {
                "layer.weight": ("F32", (2, 3), floats(*((shift * i) % 5 for i in range(6)))),
                "layer.bias": ("F32", (2,), floats(0, shift)),
            }
            (path / "importance.safetensors").write_bytes(safetensors(tensors))
        self.secret.parent.mkdir()
        self.secret.write_bytes(SECRET)
        self.write_recipe()

    def write_recipe(self, model: str | None = None, **keys: object) -> None:
        """The usual recipe, with another first model or further keys."""
        entries = [
            {"model": str(path), "parameters": {"importance": str(path / "importance.safetensors")}}
            for path in (self.model, self.other)
        ]
        if model is not None:
            entries[0]["model"] = model
        recipe = {"merge_method": "sta", "base_model": str(self.base), "models": entries, **keys}
        self.recipe.write_text(json.dumps(recipe))  # which is YAML

    @property
    def command(self) -> list[str]:
        """The usual command line."""
        return ["merge", str(self.recipe), str(self.out)]


def linked(path: Path, target: Path | str) -> None:
    """Put a link in a path's place."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def without_weights(folder: Path) -> Path:
    """A folder, its weights removed."""
    (folder / "model.safetensors").unlink()
    return folder
