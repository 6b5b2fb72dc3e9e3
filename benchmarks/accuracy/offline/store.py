"""Files of the cache: each is whole or absent, so that a run that was killed goes on where it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its name at the end of the block, unless that is by an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def tensors(path: Path, compute: Callable[[], Mapping[str, Tensor]]) -> Tensors:
    """The tensors of a file; computed and written first where it is not there."""
    if not path.exists():
        with whole(path) as unfinished:
            save_file({name: tensor.contiguous() for name, tensor in compute().items()}, unfinished)
    return load_file(path)


def arrays(path: Path, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The same for NumPy arrays."""
    if not path.exists():
        with whole(path) as unfinished, open(unfinished, "wb") as file:
            np.savez(file, **compute())
    with np.load(path) as content:
        return dict(content)
