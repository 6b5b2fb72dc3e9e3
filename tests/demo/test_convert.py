"""The conversion against a small ONNX graph of the source's structure, evaluated by the onnx package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sta_kernels.demo.convert import convert, graph_tokens, our_name
from sta_kernels.demo.vit import Vit, VitConfig
from sta_kernels.errors import RunError

WIDTH, HIDDEN, HEADS, PATCH, SIDE = 128, 96, 2, 4, 5
CONFIG = VitConfig(width=WIDTH, hidden=HIDDEN, depth=2, patch=PATCH, image=3 * PATCH)


class Graph:
    """Builds nodes and constants one after the other."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes, self.constants = [], []

    def constant(self, name, *shape, scale=0.3, value=None):
        array = self.rng.normal(0, scale, shape).astype(np.float32) if value is None else np.asarray(value)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op, *inputs, **attributes):
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def ints(self, *values):
        return self.constant(f"ints_{len(self.constants)}", value=np.array(values, np.int64))

    def linear(self, x, name, wide, narrow, *, bias_first=True):
        product = self.node("MatMul", x, self.constant(f"onnx::MatMul_{len(self.nodes)}", wide, narrow))
        bias = self.constant(f"{name}.bias", narrow)
        return self.node("Add", *((bias, product) if bias_first else (product, bias)))

    def norm(self, x, name):
        weight, bias = self.constant(f"{name}.weight", WIDTH), self.constant(f"{name}.bias", WIDTH)
        return self.node("LayerNormalization", x, weight, bias, epsilon=1e-6)

    def heads(self, x):
        split = self.node("Reshape", x, self.ints(0, 0, HEADS, WIDTH // HEADS))
        return self.node("Transpose", split, perm=[0, 2, 1, 3])

    def block(self, x, name):
        y = self.norm(x, f"{name}.norm1")
        attention = f"{name}.attention.attention"
        key, value, query = (
            self.heads(self.linear(y, f"{attention}.{part}", WIDTH, WIDTH)) for part in ("key", "value", "query")
        )
        scores = self.node("MatMul", query, self.node("Transpose", key, perm=[0, 1, 3, 2]))
        factor = self.constant(f"factor_{len(self.nodes)}", value=np.float32((WIDTH // HEADS) ** -0.5))
        weights = self.node("Softmax", self.node("Mul", scores, factor), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", weights, value), perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.ints(0, 0, WIDTH))
        y = self.linear(mixed, f"{name}.attention.output.dense", WIDTH, WIDTH)
        x = self.node("Add", self.node("Mul", y, self.constant(f"{name}.layer_scale1.lambda1", WIDTH)), x)
        y = self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1", WIDTH, HIDDEN, bias_first=False)
        root = self.constant(f"root_{len(self.nodes)}", value=np.float32(2**0.5))
        one = self.constant(f"one_{len(self.nodes)}", value=np.float32(1))
        half = self.constant(f"half_{len(self.nodes)}", value=np.float32(0.5))
        error = self.node("Add", self.node("Erf", self.node("Div", y, root)), one)
        y = self.linear(self.node("Mul", self.node("Mul", y, error), half), f"{name}.mlp.fc2", HIDDEN, WIDTH)
        return self.node("Add", self.node("Mul", y, self.constant(f"{name}.layer_scale2.lambda1", WIDTH)), x)


def source_model(blocks=3):
    g = Graph()
    root = "backbone.embeddings"
    projection = f"{root}.patch_embeddings.projection"
    weight, bias = g.constant(f"{projection}.weight", WIDTH, 3, PATCH, PATCH), g.constant(f"{projection}.bias", WIDTH)
    x = g.node("Conv", "input_image", weight, bias, strides=[PATCH, PATCH])
    x = g.node("Transpose", g.node("Reshape", x, g.ints(0, WIDTH, -1)), perm=[0, 2, 1])
    token = g.node("Expand", g.constant(f"{root}.cls_token", 1, 1, WIDTH), g.ints(2, 1, 1))
    x = g.node("Concat", token, x, axis=1)
    grid = g.node("Reshape", g.constant("onnx::Reshape_1", 1, SIDE * SIDE, WIDTH), g.ints(1, SIDE, SIDE, WIDTH))
    grid = g.node("Transpose", grid, perm=[0, 3, 1, 2])
    sizes = g.ints(1, WIDTH, CONFIG.patches, CONFIG.patches)
    mode = {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.75}
    grid = g.node("Transpose", g.node("Resize", grid, "", "", sizes, **mode), perm=[0, 2, 3, 1])
    grid = g.node("Reshape", grid, g.ints(1, -1, WIDTH))
    positions = g.node("Concat", g.constant("onnx::Concat_1", 1, 1, WIDTH), grid, axis=1)
    x = g.node("Add", x, positions)
    for number in range(blocks):
        x = g.block(x, f"backbone.encoder.layer.{number}")
    x = g.norm(x, "backbone.layernorm")
    image = helper.make_tensor_value_info("input_image", TensorProto.FLOAT, [2, 3, CONFIG.image, CONFIG.image])
    result = helper.make_tensor_value_info(x, TensorProto.FLOAT, None)
    graph = helper.make_graph(g.nodes, "vit", [image], [result], g.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def source():
    return source_model()


def test_converted_model_computes_what_the_graph_computes(source):
    images = np.random.default_rng(1).standard_normal((2, 3, CONFIG.image, CONFIG.image)).astype(np.float32)
    expected = graph_tokens(source, CONFIG.depth, images)
    with torch.inference_mode():
        found = convert(source, CONFIG).tokens(torch.from_numpy(images)).numpy()
    assert found.shape == (2, 1 + CONFIG.patches**2, WIDTH)
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)


def test_a_missing_weight_is_named(source):
    model = source_model(blocks=1)
    with pytest.raises(RunError, match=r"blocks\.1\.scale1: the ONNX graph holds nothing, the model needs \[128\]"):
        convert(model, CONFIG)


def test_another_shape_is_named(source):
    config = VitConfig(width=WIDTH, hidden=64, depth=1, patch=PATCH, image=12)
    with pytest.raises(RunError, match=r"blocks\.0\.mlp\.fc1\.weight: the ONNX graph holds \[96, 128\]"):
        convert(source, config)


def test_names_cover_the_model_exactly():
    parts = ["norm1.weight", "attention.attention.query.bias", "attention.output.dense.weight", "layer_scale2.lambda1"]
    ours = [our_name(f"backbone.encoder.layer.1.{part}") for part in parts]
    assert ours == ["blocks.1.norm1.weight", "blocks.1.attn.query.bias", "blocks.1.attn.out.weight", "blocks.1.scale2"]
    assert set(ours) < set(Vit(CONFIG).state_dict())
    assert our_name("backbone.layernorm.weight") is None
    assert our_name("decoder.bn1.weight") is None
