"""Metadata of importance files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sta_kernels.checkpoint import ImportanceMetadata, open_checkpoint
from sta_kernels.errors import InputError
from sta_kernels.methods.statistics import Summary

META = ImportanceMetadata("lp", 32, "0" * 32, "0.1.0", {"a": Summary(0.0, 1.5, 0.1), "b": Summary(0.25, 0.25, 0.25)})


def test_through_a_file(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "importance.safetensors", META.to_metadata())
    with open_checkpoint(tmp_path / "importance.safetensors") as checkpoint:
        assert ImportanceMetadata.from_metadata(checkpoint.metadata) == META
        assert checkpoint.metadata["format"] == "pt"


@given(st.floats(width=32), st.floats(width=32), st.floats())
def test_floats_come_back_as_themselves(low, high, mean):
    if low > high:
        low, high = high, low
    metadata = ImportanceMetadata("lp", 1, "", "", {"a": Summary(low, high, mean)}).to_metadata()
    json.loads(metadata["sta_kernels.statistics"], parse_constant=lambda name: pytest.fail(name))
    back = ImportanceMetadata.from_metadata(metadata)
    for before, after in zip((low, high, mean), vars(back.statistics["a"]).values(), strict=True):
        assert (math.isnan(before) and math.isnan(after)) or (before, math.copysign(1, before)) == (
            after,
            math.copysign(1, after),
        )


def test_numpy_floats_are_written():
    summary = Summary(np.float32(0.1), np.float32(0.2), np.float64(0.3))
    back = ImportanceMetadata.from_metadata(ImportanceMetadata("lp", 1, "", "", {"a": summary}).to_metadata())
    assert back.statistics["a"] == Summary(float(np.float32(0.1)), float(np.float32(0.2)), 0.3)


def test_statistics_lose_the_wrappings_that_tensors_lose():
    wrapped = ImportanceMetadata("lp", 1, "", "", {"module.a": Summary(0, 1, 0.5), "module.b": Summary(0, 1, 0.5)})
    assert set(ImportanceMetadata.from_metadata(wrapped.to_metadata()).statistics) == {"a", "b"}


def test_foreign_file():
    assert ImportanceMetadata.from_metadata({"format": "pt"}) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("importance", "2", "importance format '2'"),
        ("measure", "magic", "unknown measure 'magic'"),
        ("measure", None, r"lacks 'sta_kernels\.measure'"),
        ("samples", "-1", "'-1' samples"),
        ("samples", "٣", "samples"),
        ("statistics", "{", "damaged"),
        ("statistics", "[]", "must be an object"),
        ("statistics", '{"a": [1, 2]}', "must be min, max and mean"),
        ("statistics", '{"a": [1, 2, true]}', "must be min, max and mean"),
        ("statistics", '{"a": [1, 2, "x"]}', "damaged"),
        ("statistics", '{"a": [1, 2, ' + "9" * 400 + "]}", "damaged"),
        ("statistics", '{"a": [3, 2, 2]}', "'a': minimum 3 exceeds maximum 2"),
        ("statistics", '{"a":' * 100_000, "damaged"),
    ],
)
def test_damaged(key, value, message):
    metadata = META.to_metadata()
    metadata["sta_kernels." + key] = value
    if value is None:
        del metadata["sta_kernels." + key]
    with pytest.raises(InputError, match=f"i.safetensors: .*{message}"):
        ImportanceMetadata.from_metadata(metadata, "i.safetensors")
