"""CLIP models by name, with weights from a file or, where that is allowed, from where open_clip finds them."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sta_kernels.errors import InputError, RunError
from sta_kernels.vision.checkpoints import load_clip
from sta_kernels.vision.extra import need

PREFIX = "open_clip:"


@dataclass(frozen=True)
class Clip:
    """A CLIP model with what goes before it.

    Attributes:
        name: of the architecture, as open_clip knows it.
        model: with an image encoder ``visual`` and a text encoder; float32, in evaluation mode.
        augment: training's random preprocessing: a PIL image to a float32 tensor [3, height, width].
        preprocess: the deterministic one.
        tokenizer: texts to tokens.
    """

    name: str
    model: nn.Module
    augment: Callable[[Any], Tensor]
    preprocess: Callable[[Any], Tensor]
    tokenizer: Callable[[Any], Tensor]

    @property
    def visual(self) -> nn.Module:
        """The image encoder."""
        visual = self.model.visual
        assert isinstance(visual, nn.Module)
        return visual


def check_spec(spec: str) -> str:
    """The architecture that a specification names, once it is known that it can be built.

    Args:
        spec: ``open_clip:ARCHITECTURE``, such as ``open_clip:ViT-B-16``, or ``open_clip:PATH.json``, a file of the kind
            that open_clip describes its models by.

    Returns:
        The name by which open_clip builds it.

    Raises:
        InputError: another form, an unknown name, or a file that describes no model.
    """
    if not spec.startswith(PREFIX) or spec == PREFIX:
        raise InputError(f"model {spec!r}: expected {PREFIX}ARCHITECTURE, such as {PREFIX}ViT-B-16")
    open_clip = need("open_clip")
    name = spec.removeprefix(PREFIX)
    if name.endswith(".json"):
        return _described(Path(name), open_clip)
    name = name.replace("/", "-")
    if open_clip.get_model_config(name) is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=4)
        hint = f"near it: {', '.join(near)}" if near else "python -c 'import open_clip; print(open_clip.list_models())'"
        raise InputError(f"model {spec!r}: open_clip {open_clip.__version__} knows no {name}; {hint}")
    return name


def _described(file: Path, open_clip: Any) -> str:
    """Make open_clip know the model that a file describes, under the file's own name."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; it is to describe a model as open_clip's own model_configs do")
    before = open_clip.get_model_config(file.stem)
    if before is None:
        try:
            open_clip.add_model_config(file)
        except ValueError as error:
            raise InputError(f"{file}: not JSON: {error}") from None
    described = open_clip.get_model_config(file.stem)
    if described is None:
        raise InputError(f"{file}: describes no model: embed_dim, vision_cfg and text_cfg are needed")
    if before is not None and before != _parsed(file):
        raise InputError(f"{file}: open_clip knows another model {file.stem}; give the file a name of its own")
    return file.stem


def _parsed(file: Path) -> Any:
    import json

    return json.loads(file.read_text(encoding="utf-8"))


def build(spec: str) -> Clip:
    """A model with random weights, drawn from torch's generator.

    Raises:
        InputError: as :func:`check_spec`.
    """
    return _create(check_spec(spec), None)


def load_pretrained(spec: str, source: str, *, allow_download: bool = False) -> Clip:
    """A model with both its encoders' weights.

    Args:
        spec: as for :func:`check_spec`.
        source: a file or a folder (:func:`sta_kernels.vision.read_weights` says of which kinds), or one of open_clip's
            tags, such as ``openai``.
        allow_download: let open_clip fetch a tag's weights, or take them from its cache. Nothing is fetched otherwise.

    Raises:
        InputError: the source is neither, or a tag without permission; weights that do not fit.
        RunError: the download failed.
    """
    name = check_spec(spec)
    if Path(source).exists():
        clip = _create(name, None)
        load_clip(clip.model, Path(source))
        return clip
    tags = need("open_clip").list_pretrained_tags_by_model(name)
    if source not in tags:
        listed = f"open_clip's weights for {name} are {', '.join(tags)}" if tags else f"open_clip has none for {name}"
        raise InputError(f"{source}: no such file, and no weights that open_clip knows; {listed}")
    if not allow_download:
        raise InputError(
            f"{source}: no such file, and open_clip's weights of that name would be downloaded: "
            "--allow-download permits it (allow_download=True)"
        )
    try:
        return _create(name, source)
    except (RuntimeError, OSError) as error:
        raise RunError(f"{name}, {source}: {error}") from error


def _create(name: str, tag: str | None) -> Clip:
    open_clip = need("open_clip")
    with _quiet():
        model, augment, preprocess = open_clip.create_model_and_transforms(name, pretrained=tag)
    return Clip(name, model.float().eval(), augment, preprocess, _tokenizer(name))


@cache
def _tokenizer(name: str) -> Any:
    """Building one takes longer than building a small model."""
    return need("open_clip").get_tokenizer(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's remark that a model starts with random weights: they are replaced."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        logging.disable(level)


def device_of(text: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: torch knows no such device, or cannot use it here.
    """
    try:
        device = torch.device(text)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {text}: {reason}") from None
    return device
