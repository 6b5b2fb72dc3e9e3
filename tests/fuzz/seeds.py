"""Inputs to begin with: what is well formed, and what was hostile once."""

from __future__ import annotations

import json

from attacks.headers import HEADERS
from attacks.outputs import WHOLE
from attacks.side_files import GOOD
from attacks.values import KNOWN
from attacks.victim import safetensors, weights
from fuzz.packing import LONGEST

RECIPE = """\
merge_method: sta
base_model: .
models:
  - model: .
    parameters: {importance: ., weight: [0.5, {filter: attn, value: 1}]}
  - model: .
    parameters: {importance: .}
parameters: {p: 0.7, measure: lp, normalise: minmax}
exclude: ["head.*"]
split: {"*.in_proj_weight": 3}
dtype: float32
"""
SLICES = """\
merge_method: linear
slices:
  - sources: [{model: ., layer_range: [0, 2], parameters: {weight: 1}}, {model: ., layer_range: [1, 3]}]
  - sources: [{model: ., layer_range: [2, 4]}]
parameters: &a {weight: 1.0, normalize: true}
tokenizer_source: base
"""
ADAPTER = {**GOOD, "rank_pattern": {r".*layers\.\d+\.q_proj": 4}, "alpha_pattern": {"(q|v)_proj": 2.5},
           "use_rslora": True, "modules_to_save": ["head"]}  # fmt: skip
JOURNAL = b"""\
{"identity":"0123456789abcdef"}
{"served":{"device":"cpu","backend":"native","reason":""}}
{"blocks":[0,3,"00112233445566778899aabbccddeeff"]}
{"tile":[2,0,4096,[7,9]]}
{"differs":1}
{"varies":1}
{"publishing":true}
"""
TENSOR = {"name": "w", "tensor": "w", "elements": 6, "kept": [1, 2], "unrouted": 0}
FILE = {"size": 3, "digest": "00", "regions": ["00"]}
SEEDS: dict[str, list[bytes]] = {
    "header": [safetensors(weights(1), {"format": "pt"}), *(each.content for each in HEADERS)],
    "index": [b'{"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}'],
    "recipe": [RECIPE.encode(), SLICES.encode()],
    "importance": [json.dumps(KNOWN).encode()],
    "adapter": [json.dumps(GOOD).encode(), json.dumps(ADAPTER).encode()],
    "journal": [JOURNAL],
    "manifest": [json.dumps({**WHOLE, "tensors": [TENSOR], "files": {"a": FILE}}).encode(), json.dumps(WHOLE).encode()],
    "core": [],
}


def seeds(target: str) -> list[bytes]:
    """Of a target, as far as they are short enough."""
    return [data for data in SEEDS[target] if len(data) <= LONGEST]
