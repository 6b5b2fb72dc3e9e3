"""Launches that were measured on a device, where somebody has: what ``tuning`` writes, and launchers look up.

A table is a JSON file named after its device, in ``$XDG_CACHE_HOME/sta_kernels/tuning`` (or under ``~/.cache``), and is
read once per process. It changes how fast a launch is, never what it computes.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from sta_kernels.kernels.buffers import DType

MOST_BLOCKS = 63
"""Blocks per program that the kernels' counters can count."""

MOST_WARPS = 65536 // (32 * 255)
"""Warps per program, each of whose threads may hold as many registers as one can address: the program still fits a
multiprocessor."""


@dataclass(frozen=True)
class TunedLaunch:
    """The part of a launch that does not depend on how many elements there are.

    Attributes:
        block: elements that a program holds in registers at a time; a power of two.
        blocks: per program, where there are elements enough for all of the device; at most :data:`MOST_BLOCKS`.
        warps: per program; a power of two, at most :data:`MOST_WARPS`.
    """

    block: int
    blocks: int
    warps: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or value < 1 or (name != "blocks" and value & (value - 1)):
                raise ValueError(f"{name}: {value!r}")
        if self.blocks > MOST_BLOCKS or self.warps > MOST_WARPS or self.block < 16:
            raise ValueError(f"out of range: {self}")


Table = Mapping[str, TunedLaunch]


def key(op: str, dtypes: Sequence[DType], *variant: object) -> str:
    """Name of a kernel on operands of these dtypes, in the order of its table: ``sta_merge 6 lp F32*2 BF16*12``.

    ``variant`` is what else distinguishes kernels: number of tasks, measure. Dtypes alone do not: eight of float32 are
    three tasks with importances, and six without.
    """
    runs = ((dtype, len(list(group))) for dtype, group in itertools.groupby(dtypes))
    return " ".join([op, *map(str, variant), *(f"{dtype.name}*{count}" for dtype, count in runs)])


def lookup(device: torch.device, op: str, dtypes: Sequence[DType], *variant: object) -> TunedLaunch | None:
    """The launch that was found best on the device; None where nobody has looked."""
    launches = table(device_name(device))
    return launches.get(key(op, dtypes, *variant)) if launches else None


@functools.cache
def device_name(device: torch.device) -> str:
    """What tables of a device are named after."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


def folder() -> Path:
    """Where tables are looked for."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "sta_kernels" / "tuning"


def path_of(name: str) -> Path:
    """The table of a device."""
    return folder() / (re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() + ".json")


@functools.cache
def table(name: str) -> Table:
    """The table of a device as it was when the first launch asked; empty where there is none or it cannot be used."""
    path = path_of(name)
    try:
        return load(path, name)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        warnings.warn(f"{path} is ignored ({error}); delete it, or tune again", RuntimeWarning, stacklevel=2)
    return MappingProxyType({})


def load(path: Path, name: str) -> Table:
    """Read a table.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no table, or one of another device.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        if content["device"] != name:
            raise ValueError(f"it is of {content['device']!r}, not of {name!r}")
        return MappingProxyType({each: TunedLaunch(**launch) for each, launch in content["launches"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no table of launches: {error!r}") from None


def save(path: Path, name: str, launches: Table, about: Mapping[str, Any]) -> None:
    """Write a table, under its name only when it is whole."""
    content = {"device": name, **about, "launches": {each: asdict(launch) for each, launch in launches.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
