"""A finished importance: tensors by name, what is known of them, and the file they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sta_kernels._version import __version__
from sta_kernels.checkpoint.digest import BLOCK, model_digest
from sta_kernels.checkpoint.entry import code_of
from sta_kernels.checkpoint.folder import INDEX_SUFFIX, TORCH_SUFFIXES
from sta_kernels.checkpoint.importance import ImportanceMetadata
from sta_kernels.checkpoint.layout import plan_shards
from sta_kernels.checkpoint.sample import sample_of
from sta_kernels.checkpoint.writer import ShardWriter, atomic_write
from sta_kernels.errors import InputError, RunError
from sta_kernels.kernels.buffers import Buffer, torch_dtype
from sta_kernels.methods.statistics import Summary
from sta_kernels.taylor.sharded import is_first, is_sharded, whole

_SUFFIX = ".safetensors"


class Importance(Mapping[str, Tensor]):
    """Importance of one model's trainable parameters: a mapping of names to tensors, fit for :func:`sta_kernels.merge`.

    Attributes:
        measure: "lp", "amp" or "lp_amp": what the values are.
        samples: backward passes that were summed; 0 for amp.
        statistics: minimum, maximum and mean per name, of the values as they stand here.
        model_digest: of the float32 values of the same parameters of the model, by name; a file of that model in any
            dtype that holds them exactly has the same.
        model_sample: of a few of these values, by which a merge tells whether it was given the model's own importance.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        statistics: Mapping[str, Summary],
        *,
        measure: str,
        samples: int,
        model_digest: str,
        model_sample: str = "",
    ) -> None:
        self._tensors = dict(tensors)
        self.statistics = dict(statistics)
        self.measure = measure
        self.samples = samples
        self.model_digest = model_digest
        self.model_sample = model_sample

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Importance({self.measure}, {len(self)} tensors, {self.samples} samples)"

    def state_dict(self) -> dict[str, Tensor]:
        """Name to importance, in the order of ``model.named_parameters()``; tied names share one tensor."""
        return dict(self._tensors)

    def save(self, path: str | Path, *, shard_size: int | None = None) -> Path:
        """Write safetensors with each tensor's statistics, the measure, samples, model digest and package version.

        A tied tensor is written under each of its names, so that it is found by whichever the checkpoint kept. Files
        get their names only when all are whole; an importance of that name that was there before is replaced.

        Args:
            path: a file ``*.safetensors``; any other path is a folder (made if need be) that receives
                ``importance.safetensors``.
            shard_size: most bytes of tensors per file; a larger importance becomes ``*-00001-of-00002.safetensors``
                and so on, with an index. None: one file.

        Returns:
            The file, or the index of the shards: what a recipe names.

        Raises:
            InputError: the file's folder does not exist, the name is that of a PyTorch file, ``shard_size`` is below 1.
            RunError: the disk is full or failed.
        """
        if shard_size is not None and shard_size < 1:
            raise InputError(f"shard_size: at least 1 byte, not {shard_size}")
        folder, stem = _destination(Path(path))
        metadata = ImportanceMetadata(
            self.measure, self.samples, self.model_digest, __version__, self.statistics, self.model_sample
        )
        entries = [(name, code_of(torch_dtype(tensor.dtype)), tuple(tensor.shape)) for name, tensor in self.items()]
        shard_bytes = shard_size or max(sum(tensor.nbytes for tensor in self.values()), 1)
        layout = plan_shards(entries, shard_bytes, metadata.to_metadata(), stem=stem)
        if any(is_sharded(tensor) and not is_first(tensor) for tensor in self.values()):
            for shard in layout.shards:
                for place in shard.tensors:
                    whole(self[place.name])  # the part in the first process's gathering
            return folder / (stem + _SUFFIX + (INDEX_SUFFIX if layout.index is not None else ""))
        single, index = folder / (stem + _SUFFIX), folder / (stem + _SUFFIX + INDEX_SUFFIX)
        with ExitStack() as unfinished:
            writers = []
            for shard in layout.shards:
                writer = ShardWriter(folder / shard.file_name, shard.size)
                unfinished.callback(writer.discard)
                writer.write(0, shard.header)
                for place in shard.tensors:
                    writer.write(place.offset, _stored(self[place.name]))
                writers.append(writer)
            index.unlink(missing_ok=True)  # an index never stands beside shards of another run
            for writer in writers:
                writer.finish()
        if layout.index is None:
            return single
        atomic_write(index, layout.index)
        single.unlink(missing_ok=True)  # in a folder, readers would take it before the index
        return index


def _destination(path: Path) -> tuple[Path, str]:
    """Folder and stem of the files."""
    if path.suffix in TORCH_SUFFIXES:
        raise InputError(f"{path}: an importance is written as {_SUFFIX}, not as {path.suffix}")
    if path.suffix == _SUFFIX and not path.is_dir():
        if not path.parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist")
        return path.parent, path.stem
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made: {error.strerror}") from error
    return path, "importance"


def origin_of(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """Digest of the float32 values of parameters, by name, and of a few of them: what is known of a model."""

    def read(name: str, first: int, count: int) -> np.ndarray[Any, Any]:
        return whole(parameters[name]).reshape(-1)[first : first + count].to("cpu", torch.float32).numpy()

    sizes = {name: param.numel() for name, param in parameters.items()}
    digest = model_digest((name, _float32_pieces(param)) for name, param in parameters.items())
    return {"model_digest": digest, "model_sample": sample_of(sizes, read)}


def _float32_pieces(tensor: Tensor) -> Iterator[np.ndarray[Any, Any]]:
    flat = whole(tensor).reshape(-1)
    for piece in flat.split(BLOCK):
        yield piece.to("cpu", torch.float32).numpy()


def _stored(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The elements as a file holds them; bfloat16 as ``uint16``."""
    return Buffer.from_torch(whole(tensor).cpu()).numpy()
