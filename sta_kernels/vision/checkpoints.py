"""Weights of CLIP models and of image encoders, from the files that people have."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sta_kernels.checkpoint import Checkpoint, open_checkpoint
from sta_kernels.checkpoint.folder import TORCH_SUFFIXES
from sta_kernels.checkpoint.writer import temporary_name
from sta_kernels.errors import InputError, RunError
from sta_kernels.vision.names import VISUAL, to_open_clip
from sta_kernels.vision.pickled import foreign_names, read_pickled

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_PROJECTION = "visual.proj"
_QUICK_BY_DEFAULT = {"clip", "clip_vision_model"}
"""Hugging Face's kinds of configuration whose ``hidden_act`` is QuickGELU where it is not given."""


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds of a CLIP model.

    Attributes:
        tensors: float32, by open_clip's names.
        form: ``open_clip`` or ``huggingface``, whose names the file has; ``pickled``: whole modules in a pickle.
        quick_gelu: whether its layers compute ``x · sigmoid(1.702 x)`` in GELU's place; None where nothing says so.
    """

    tensors: dict[str, Tensor]
    form: str
    quick_gelu: bool | None


def read_weights(path: str | Path) -> Weights:
    """Read a checkpoint of a CLIP model or of its image encoder; no code of it is run.

    Args:
        path: safetensors, single or sharded, or a PyTorch state dict, with open_clip's or Hugging Face's names; a
            PyTorch file of a pickled module, such as the task-arithmetic papers' ``ImageEncoder``; or a folder with one
            of these. A ``config.json`` of Hugging Face's is asked for the activation.

    Raises:
        InputError: nothing there, or nothing of these kinds; names the file.
        RunError: the device failed.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    classes: frozenset[str] = frozenset()
    if path.is_file() and path.suffix in TORCH_SUFFIXES and foreign_names(path):
        stored, classes = read_pickled(path)
    else:
        with open_checkpoint(path) as checkpoint:
            stored = {name: _tensor(checkpoint, name) for name in (*checkpoint.entries, *checkpoint.aliases)}
    tensors, form = to_open_clip(stored, str(path))
    floats = {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
    quick = _activation_of(classes) if classes else _configured(path)
    return Weights(floats, "pickled" if classes else form, quick)


def _tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    entry = checkpoint.find(name)
    if entry is None or entry.dtype not in _DTYPES:
        return torch.empty(0, dtype=torch.int64)  # position_ids and the like, which are no weights
    tensor = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
    checkpoint.read_into(name, 0, tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else bytearray())
    return tensor


def _activation_of(classes: frozenset[str]) -> bool | None:
    """By the classes of a pickled module's parts."""
    return True if "QuickGELU" in classes else False if "GELU" in classes else None


def _configured(path: Path) -> bool | None:
    """By Hugging Face's configuration beside the weights.

    Of a nested configuration only what differs from its class's default is written, and CLIP's default is QuickGELU.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        vision = config.get("vision_config", config)
        kinds = {config.get("model_type"), vision.get("model_type")}
        activation = vision.get("hidden_act", "quick_gelu" if kinds & _QUICK_BY_DEFAULT else None)
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return None if activation is None else activation == "quick_gelu"


def load_clip(model: nn.Module, path: Path) -> None:
    """Give a whole CLIP model its weights.

    Raises:
        InputError: as :func:`read_weights`; the file lacks the text encoder, or does not fit.
    """
    weights = read_weights(path)
    if not any(not name.startswith(VISUAL) and "resblocks" in name for name in weights.tensors):
        raise InputError(
            f"{path}: holds an image encoder alone, and zero-shot heads need the text encoder as well; give the "
            "pretrained CLIP model that it was fine-tuned from (--pretrained)"
        )
    _check(model, weights, dict(model.state_dict()), path)
    model.load_state_dict({name: weights.tensors[name] for name in model.state_dict()})


def load_encoder(model: nn.Module, weights: Weights, path: str | Path) -> list[str]:
    """Give the image encoder of a CLIP model other weights, and leave its text encoder.

    Args:
        model: with ``visual``; whose projection stays where the checkpoint has none (Hugging Face's CLIPVisionModel).
        weights: of a whole model or of an image encoder.
        path: named in errors.

    Returns:
        Entries that stayed, by name: the projection, or nothing.

    Raises:
        InputError: entries are missing, unknown or of another shape; the activation is another. Names them.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(VISUAL)}
    kept = [name for name in (_PROJECTION,) if name in state and name not in weights.tensors]
    expected = {name: tensor for name, tensor in state.items() if name not in kept}
    given = {name: tensor for name, tensor in weights.tensors.items() if name.startswith(VISUAL)}
    if kept and weights.form != "huggingface":
        kept, expected = [], state
    _check(model, Weights(given, weights.form, weights.quick_gelu), expected, path)
    model.load_state_dict({name: given[name] for name in expected}, strict=False)
    return kept


def _check(model: nn.Module, weights: Weights, expected: Mapping[str, Tensor], path: str | Path) -> None:
    given = weights.tensors
    missing = [name for name in expected if name not in given]
    unknown = [name for name in given if name not in expected]
    wrong = "; is it another architecture (--model)?"
    if missing:
        raise InputError(f"{path}: lacks {_some(missing)}{wrong}")
    if unknown:
        raise InputError(f"{path}: holds {_some(unknown)}, which the model has not{wrong}")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            shapes = f"{list(given[name].shape)}, the model's {list(tensor.shape)}"
            raise InputError(f"{path}: {name} has the shape {shapes}{wrong}")
    quick = any(type(module).__name__ == "QuickGELU" for module in model.modules())
    if weights.quick_gelu is not None and weights.quick_gelu != quick:
        theirs, ours = ("QuickGELU", "GELU") if weights.quick_gelu else ("GELU", "QuickGELU")
        raise InputError(
            f"{path}: was trained with {theirs}, and the model computes {ours}; the architectures of open_clip with "
            "QuickGELU, those of OpenAI's weights, end in -quickgelu: open_clip:ViT-B-16-quickgelu"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def save_encoder(model: nn.Module, folder: Path, also: Collection[str] = ()) -> Path:
    """Write a CLIP model's image encoder, ``visual.*``, as ``folder/model.safetensors``: what a merge reads.

    Args:
        model: with ``visual``.
        folder: made if need be.
        also: entries of the text encoder to write beside it.

    Returns:
        The file; it has its name only when it is whole.

    Raises:
        RunError: the folder or the file cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    file = folder / "model.safetensors"
    partial = temporary_name(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = {name: tensor for name, tensor in state.items() if name.startswith(VISUAL) or name in also}
        save_file(written, partial, metadata={"format": "pt"})
        os.replace(partial, file)
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return file
