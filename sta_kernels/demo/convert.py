"""From the ONNX graph of a DINOv2-style ViT to entries of :class:`sta_kernels.demo.vit.Vit`.

The exporter folded the linear layers' transposes, so their weights are anonymous and transposed: each gets its name
through the bias that is added to its product.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from sta_kernels.demo.vit import Vit, VitConfig
from sta_kernels.errors import RunError

if TYPE_CHECKING:
    import onnx

EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.patch_embeddings.projection": "patch_embed",
}
LAYER = {
    "norm1": "norm1",
    "attention.attention.query": "attn.query",
    "attention.attention.key": "attn.key",
    "attention.attention.value": "attn.value",
    "attention.output.dense": "attn.out",
    "layer_scale1.lambda1": "scale1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale2.lambda1": "scale2",
}


def our_name(source: str) -> str | None:
    """Our name of an entry of the source's backbone; None for what has no place in ours."""
    source = source.removeprefix("backbone.")
    suffix = next((end for end in (".weight", ".bias") if source.endswith(end)), "")
    stem = source.removesuffix(suffix)
    if stem in EMBEDDINGS:
        return EMBEDDINGS[stem] + suffix
    match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", stem)
    if match and match[2] in LAYER:
        return f"blocks.{match[1]}.{LAYER[match[2]]}{suffix}"
    return None


def named_initializers(graph: onnx.GraphProto) -> dict[str, np.ndarray[Any, Any]]:
    """All the graph's constants by the source's names, the linear layers' weights in torch's [out, in] order."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    bias_of = {}  # output of a product -> the bias added to it
    for node in graph.node:
        if node.op_type == "Add":
            constant, other = sorted(node.input, key=lambda name: name not in arrays)
            if constant.endswith(".bias"):
                bias_of[other] = constant
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays and node.output[0] in bias_of:
            bias = bias_of[node.output[0]]
            arrays[bias.removesuffix("bias") + "weight"] = arrays.pop(node.input[1]).T
    return arrays


def position_table(graph: onnx.GraphProto, arrays: dict[str, np.ndarray[Any, Any]]) -> tuple[Any, Any]:
    """Positions of the class token [1, 1, width] and of the patches [1, side², width], found by how they are used."""
    of_class = of_patches = None
    for node in graph.node:
        value = arrays.get(node.input[0]) if node.input else None
        if value is None or value.ndim != 3 or value.shape[0] != 1:
            continue
        if node.op_type == "Concat" and value.shape[1] == 1:
            of_class = value
        elif node.op_type == "Reshape":
            of_patches = value
    if of_class is None or of_patches is None:
        raise RunError("the ONNX graph has no table of positions where a DINOv2 export has it")
    return of_class, of_patches


def resample_positions(of_class: Any, of_patches: Any, side: int) -> np.ndarray[Any, Any]:
    """Positions for ``side`` × ``side`` patches: bicubic and not antialiased, as the exported graph resizes them.

    Returns:
        [1, 1 + side², width], float32.
    """
    import torch
    from torch.nn.functional import interpolate

    old = round(of_patches.shape[1] ** 0.5)
    grid = torch.from_numpy(of_patches.copy()).reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return np.concatenate((of_class, grid.flatten(2).transpose(1, 2).numpy()), axis=1)


def convert(model: onnx.ModelProto, config: VitConfig) -> Vit:
    """A ViT with the weights of the graph's first ``config.depth`` blocks.

    Args:
        model: an export of a DINOv2-style ViT, its constants named as transformers names them.
        config: sizes; depth and image may be smaller than the source's.

    Raises:
        RunError: an entry is missing from the graph or has another shape.
    """
    import torch

    arrays = named_initializers(model.graph)
    ours = {our_name(source): array for source, array in arrays.items()}
    positions = resample_positions(*position_table(model.graph, arrays), config.patches)
    vit = Vit(config)
    state = {}
    for name, expected in vit.state_dict().items():
        value = positions if name == "pos_embed" else ours.get(name)
        if value is None or tuple(value.shape) != tuple(expected.shape):
            found = "nothing" if value is None else list(value.shape)
            raise RunError(f"{name}: the ONNX graph holds {found}, the model needs {list(expected.shape)}")
        state[name] = torch.from_numpy(np.array(value, np.float32))
    vit.load_state_dict(state)
    return vit.eval()


def graph_tokens(model: onnx.ModelProto, depth: int, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the ONNX graph itself yields after ``depth`` blocks, by the onnx package's reference evaluator.

    Args:
        model: the same graph that :func:`convert` reads.
        depth: number of blocks.
        images: float32 [batch, 3, height, width].

    Returns:
        [batch, tokens, width].
    """
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scale = next(name for name in constants if name.endswith(f"encoder.layer.{depth - 1}.layer_scale2.lambda1"))
    scaled = next(node.output[0] for node in graph.node if scale in node.input)
    last = next(node.output[0] for node in graph.node if node.op_type == "Add" and scaled in node.input)
    producers = {output: node for node in graph.node for output in node.output}
    needed, queue = set(), [last]
    while queue:
        name = queue.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in producers:
            queue.extend(name for name in producers[name].input if name)
    part = helper.make_graph(
        [node for node in graph.node if needed.intersection(node.output)],
        "blocks",
        [entry for entry in graph.input if entry.name in needed and entry.name not in constants],
        [helper.make_tensor_value_info(last, 1, None)],
        [tensor for name, tensor in constants.items() if name in needed],
    )
    cut = helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    (tokens,) = ReferenceEvaluator(cut).run(None, {part.input[0].name: images})
    return np.asarray(tokens)
