"""Names of CLIP's tensors: where the image encoder stands in a checkpoint, and Hugging Face's names in open_clip's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sta_kernels.checkpoint import plain_names
from sta_kernels.errors import InputError

VISUAL = "visual."
_HF_ANCHOR = "embeddings.patch_embedding.weight"
_HF_ENCODERS = {"vision_model.": "visual.", "text_model.": ""}
_PARTS = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_LAYER_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_PROJECTIONS = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = re.compile(r"self_attn\.([qkv])_proj")
_IDS = "embeddings.position_ids"


def to_open_clip(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """A checkpoint's tensors by open_clip's names, and the form it had.

    Args:
        tensors: of an open_clip model or its image encoder alone, wrapped in other modules or not; or of one of Hugging
            Face's CLIPModel, CLIPVisionModel and CLIPVisionModelWithProjection.
        source: file named in errors.

    Returns:
        The tensors: image encoder ``visual.*`` and what there is of the text encoder; and ``open_clip`` or
        ``huggingface``.

    Raises:
        InputError: no image encoder of these kinds is in it; a name that is none of Hugging Face's.
    """
    plain = plain_names(tensors)
    named = {plain[name]: tensor for name, tensor in tensors.items()}
    anchors = [name for name in named if name.endswith(_HF_ANCHOR) and "text_model" not in name]
    if len(anchors) == 1:
        prefix = anchors[0].removesuffix(_HF_ANCHOR)
        outer = prefix.removesuffix("vision_model.")
        inside = {name.removeprefix(outer): value for name, value in named.items() if name.startswith(outer)}
        if outer == prefix:  # newer versions of transformers leave the inner name out
            inside = {"vision_model." + name: value for name, value in inside.items()}
        return _from_hugging_face(inside, source), "huggingface"
    found = {match[1] or "" for name in named if (match := re.match(r"(.*\.)??visual\.", name))}
    if len(found) == 1:
        (outer,) = found
        return {name.removeprefix(outer): value for name, value in named.items() if name.startswith(outer)}, "open_clip"
    if {"conv1.weight", "class_embedding", "positional_embedding"} <= named.keys():
        return {VISUAL + name: value for name, value in named.items()}, "open_clip"
    listed = ", ".join(list(named)[:6])
    several = f"; it could be any of {', '.join(sorted(found))}" if found else ""
    raise InputError(
        f"{source}: no image encoder by the names of open_clip (visual.*) or Hugging Face (vision_model.*){several}; "
        f"its tensors are {listed}, …"
    )


def _from_hugging_face(named: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """q, k and v are one tensor in open_clip, and projections stand the other way round."""
    result: dict[str, Tensor] = {}
    pieces: dict[str, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        encoder = next((each for each in _HF_ENCODERS if name.startswith(each)), None)
        rest = name.removeprefix(encoder or "")
        start = _HF_ENCODERS.get(encoder or "", "")
        layer = _LAYER.fullmatch(rest) if encoder else None
        if rest == _IDS:
            continue
        if name in _PROJECTIONS:
            result[_PROJECTIONS[name]] = tensor.T.contiguous()
        elif name == "logit_scale":
            result[name] = tensor
        elif layer is None and encoder and rest in _PARTS:
            result[start + _PARTS[rest]] = tensor
        elif layer is not None and (qkv := _QKV.fullmatch(layer[2])):
            joined = f"{start}transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"
            pieces.setdefault(joined, {})[qkv[1]] = tensor
        elif layer is not None and layer[2] in _LAYER_PARTS:
            result[f"{start}transformer.resblocks.{layer[1]}.{_LAYER_PARTS[layer[2]]}.{layer[3]}"] = tensor
        else:
            raise InputError(f"{source}: {name!r} is no tensor of Hugging Face's CLIP")
    for joined, parts in pieces.items():
        missing = [part for part in "qkv" if part not in parts]
        if missing:
            raise InputError(f"{source}: {joined} lacks its {', '.join(missing)}")
        result[joined] = torch.cat([parts[part] for part in "qkv"])
    return result
