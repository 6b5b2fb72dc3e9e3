"""The table and the picture hold the run's numbers and nothing else."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sta_kernels.demo.picture import block_of, draw
from sta_kernels.demo.table import render

RESULTS = {
    "seed": 3,
    "steps": 7,
    "tasks": [{"name": "a", "test": 100}, {"name": "b", "test": 400}, {"name": "c", "test": 400}],
    "forgotten": "a",
    "rows": [
        {"name": "pretrained", "title": "pretrained", "accuracy": {"a": 0.5, "b": 0.2, "c": 0.4}, "kept": None},
        {
            "name": "sta_lp",
            "title": "STA",
            "accuracy": {"a": 0.75, "b": 0.5, "c": 0.25},
            "kept": {"a": 0.25, "b": 0.375, "c": 0.3749},
        },
        {"name": "negate_a", "title": "negation", "accuracy": {"a": 0.0, "b": 0.0, "c": 0.1}, "kept": None},
        {"name": "forget_a", "title": "forgetting", "accuracy": {"a": 0.1, "b": 0.25, "c": 0.3}, "kept": {"a": 0.3}},
    ],
}


def test_render():
    assert render(RESULTS) == "\n".join(
        [
            "| model (accuracy in %) |    a |    b |    c | average |   kept per task, % |",
            "|-----------------------|-----:|-----:|-----:|--------:|-------------------:|",
            "| pretrained            | 50.0 | 20.0 | 40.0 |    36.7 |                  – |",
            "| STA                   | 75.0 | 50.0 | 25.0 |    50.0 | 25.0 / 37.5 / 37.5 |",
            "| negation              |  0.0 |  0.0 | 10.0 |     3.3 |                  – |",
            "| forgetting            | 10.0 | 25.0 | 30.0 |    21.7 |               30.0 |",
            "",
            "Forgetting a: target 50.0 → 10.0 (negation of the whole task vector: 0.0), "
            "control (mean of b and c) 30.0 → 27.5 (negation: 5.0).",
            "Held-out images: a 100, b 400, c 400; the standard error of one accuracy is at most 5.0 points. "
            "Seed 3, 7 steps per task.",
        ]
    )


def test_picture_shows_the_rates(tmp_path):
    names = [f"blocks.{block}.{part}" for block in range(2) for part in ("x", "y", "z")]

    def picture(value):
        path = tmp_path / f"{value}.png"
        rates = {"a": [value] * 6, "b": [0.4] * 6}
        draw({"STA LP": {"tensors": names, "rates": rates}, "STA Amp": {"tensors": names, "rates": rates}}, path)
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    low, high = picture(0.1), picture(0.9)
    assert low.shape == high.shape
    blue = [np.flatnonzero((image == (0x00, 0x72, 0xB2)).all(-1).sum(1) > 100).mean() for image in (low, high)]
    assert blue[1] < blue[0]  # a higher rate stands higher in the picture


def test_block_of():
    assert block_of("blocks.12.mlp.fc1.weight") == "blocks.12"
    assert block_of("pos_embed") == ""
