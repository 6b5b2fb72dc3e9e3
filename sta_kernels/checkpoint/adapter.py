"""A model with a LoRA adapter, ``MODEL+ADAPTER``, as one checkpoint: the adapter is added while tensors are read."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sta_kernels.checkpoint.adapter_config import AdapterConfig
from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.low_rank import PANELS, READABLE, LowRank, Matrix, pieces, read_float32
from sta_kernels.checkpoint.positioned import byte_view
from sta_kernels.checkpoint.reader import Checkpoint, open_checkpoint
from sta_kernels.errors import InputError

_PREFIX = "base_model.model."
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.(?!weight$)[^.]+)?(\.weight)?")
_WRAPPINGS = re.compile(r"\.(base_layer|modules_to_save\.(?!weight$|bias$)[^.]+|modules_to_save)(?=\.)")
_FOREIGN = re.compile(r"(^|\.)(lora_|token_adapter)")
_ITEM = 4
"""Bytes of a float32."""


def adapter_file(folder: Path) -> Path:
    """The file that holds an adapter's tensors.

    Raises:
        InputError: there is none.
    """
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: holds neither {' nor '.join(_FILES)}: not an adapter")


class AdaptedCheckpoint(Checkpoint):
    """A model's tensors with an adapter added; those that it changes are float32.

    Factors are added to weights, and tensors that the adapter holds whole (``modules_to_save``, trained biases) take
    the place of the model's. What is written of either has the model's dtype, unless a recipe says otherwise.

    Args:
        path: as given.
        model: the model; closed with this one.
        adapter: its tensors; closed with this one.
        config: its description.

    Raises:
        InputError: the adapter does not fit the model; names file and tensor.
    """

    def __init__(self, path: Path, model: Checkpoint, adapter: Checkpoint, config: AdapterConfig) -> None:
        self.path = path
        self._sources = (*model._sources, *adapter._sources)
        self._folder = model._folder
        self._identities = {**model._identities, **adapter._identities, config.file: config.identity}
        self.files = tuple(self._identities)
        self.metadata = model.metadata
        self.left_out = model.left_out
        self.entries = dict(model.entries)
        self.aliases = dict(model.aliases)
        self._readers = dict(model._readers)
        self._added: dict[str, LowRank] = {}
        factors: dict[tuple[str, bool], dict[str, str]] = {}
        for stored in adapter.entries:
            name = _WRAPPINGS.sub("", stored.removeprefix(_PREFIX))
            factor = _FACTOR.fullmatch(name)
            if factor is not None:
                pair = factors.setdefault((factor["module"], factor["embedding"] is not None), {})
                pair[factor["factor"]] = stored
            elif _FOREIGN.search(name):
                raise InputError(f"{adapter.path}: {stored!r} is no factor of a plain LoRA adapter")
            else:
                self._put(adapter, stored, name, config)
        for (module, embedding), pair in factors.items():
            self._add(adapter, module, embedding, pair, config)

    def _put(self, adapter: Checkpoint, stored: str, name: str, config: AdapterConfig) -> None:
        """Take a tensor of the adapter as it is."""
        name = self.aliases.get(name, name)
        known = self.entries.get(name)
        if known is None and not config.saves(name):
            raise InputError(f"{adapter.path}: {stored!r}: the model {self.path} has no tensor {name!r}")
        natural = None if known is None else known.natural or known.dtype
        self.entries[name] = replace(adapter.entries[stored], name=name, natural=natural)
        self._readers[name] = adapter._readers[stored]

    def _add(
        self, adapter: Checkpoint, module: str, embedding: bool, pair: dict[str, str], config: AdapterConfig
    ) -> None:
        """Add the product of a module's factors to its weight."""
        name = self.aliases.get(f"{module}.weight", f"{module}.weight")
        entry = self.entries.get(name)
        where = f"{adapter.path}: {next(iter(pair.values()))!r}"
        if entry is None:
            raise InputError(f"{where}: the model has no tensor {name!r} to add it to")
        if pair.keys() != {"A", "B"}:
            raise InputError(f"{where}: its other factor is missing")
        if name in self._added:
            raise InputError(f"{where}: {name!r} has factors already; it is tied to another tensor")
        a, b = (_matrix(adapter, pair[factor]) for factor in "AB")
        for part in (entry, a.entry, b.entry):
            if part.dtype not in READABLE:
                raise InputError(f"{where}: {part.name!r} is {part.dtype}, which cannot be multiplied or added")
        rank = config.rank_of(module)
        if (a.rows, b.columns) != (rank, rank):
            raise InputError(f"{where}: factors of rank {a.rows} and {b.columns}, but {config.file} says {rank}")
        fits = _orientations(entry, a, b, embedding)
        if not fits:
            raise InputError(
                f"{where}: factors {list(a.entry.shape)} and {list(b.entry.shape)} do not fit {name!r} of shape "
                f"{list(entry.shape)}"
            )
        # As in PEFT, what kind of layer it is decides; only where the weight is square can the files not tell.
        transposed = config.fan_in_fan_out if len(fits) == 2 else fits[0]
        self._added[name] = LowRank(a, b, transposed, config.scale_of(module))
        self.entries[name] = TensorEntry(
            name, "F32", entry.shape, entry.size * _ITEM, entry.file, natural=entry.natural or entry.dtype
        )

    def read_into(self, name: str, byte_start: int, view: Any) -> None:
        """As of any checkpoint; of a tensor with factors, any range of bytes costs the rows that it touches.

        Raises:
            KeyError: no such tensor.
            ValueError: the range leaves the tensor.
            RunError: read error, truncated or changed file; names file and offset.
        """
        name = self.aliases.get(name, name)
        added = self._added.get(name)
        if added is None:
            super().read_into(name, byte_start, view)
            return
        target = byte_view(view)
        stop = byte_start + len(target)
        nbytes = self.entries[name].nbytes
        if byte_start < 0 or stop > nbytes:
            raise ValueError(f"{name}: bytes [{byte_start}, {stop}) of a tensor of {nbytes}")
        if not len(target):
            return
        inner = range(-(-byte_start // _ITEM), stop // _ITEM)
        if inner:
            begin = inner.start * _ITEM - byte_start
            values = np.frombuffer(target[begin : begin + len(inner) * _ITEM], np.float32)
            self._read_sum(name, inner.start, values)
        for index in {byte_start // _ITEM, (stop - 1) // _ITEM} - {*inner[:1], *inner[-1:]}:  # of which some bytes
            single = np.empty(1, np.float32)
            self._read_sum(name, index, single)
            begin, end = max(byte_start, index * _ITEM), min(stop, (index + 1) * _ITEM)
            cut = slice(begin - index * _ITEM, end - index * _ITEM)
            target[begin - byte_start : end - byte_start] = byte_view(single)[cut]

    def _read_sum(self, name: str, start: int, values: np.ndarray[Any, Any]) -> None:
        """Elements of a weight with its factors' product, from one on."""
        source, entry = self._readers[name]
        for first, last in pieces(start, start + len(values)):
            values[first - start : last - start] = read_float32(source.read_into, entry, first, last - first)
        self._added[name].add(values, start)

    def close(self) -> None:
        """Give up descriptors, mappings, and what is kept of factors."""
        super().close()
        PANELS.forget(factor for added in self._added.values() for factor in (added.a, added.b))


def _matrix(adapter: Checkpoint, stored: str) -> Matrix:
    source, entry = adapter._readers[stored]
    if len(entry.shape) < 2 or entry.size == 0:
        raise InputError(f"{adapter.path}: {stored!r} of shape {list(entry.shape)} is no factor")
    return Matrix(entry, source.read_into, entry.shape[0], entry.size // entry.shape[0])


def _orientations(entry: TensorEntry, a: Matrix, b: Matrix, embedding: bool) -> list[bool]:
    """Whether the weight has inputs first, False or True, as far as its shape tells; none where nothing fits."""
    fits = []
    if len(entry.shape) >= 2 and not embedding and (b.rows, *a.entry.shape[1:]) == entry.shape:
        fits.append(False)
    if len(entry.shape) == 2 and (a.columns, b.rows) == entry.shape:
        fits.append(True)
    return fits


def open_adapted(path: Path, model: str, folder: str) -> AdaptedCheckpoint:
    """Open a model and an adapter for it.

    Args:
        path: of both together, as given.
        model: of the model.
        folder: of the adapter.

    Raises:
        InputError: no adapter, one of a kind that cannot be added, or one that does not fit.
        RunError: the device failed.
    """
    with contextlib.ExitStack() as stack:
        config = AdapterConfig.read(Path(folder))
        opened = stack.enter_context(open_checkpoint(model))
        adapter = stack.enter_context(open_checkpoint(adapter_file(Path(folder))))
        both = AdaptedCheckpoint(path, opened, adapter, config)
        stack.pop_all()
    return both
