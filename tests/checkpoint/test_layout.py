"""Shards, headers and offsets of the output, read back by the format's own library."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from sta_kernels.checkpoint import ShardWriter, open_checkpoint, plan_shards
from sta_kernels.checkpoint.entry import BITS
from sta_kernels.errors import InputError

CODES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I64": "<i8", "U8": "|u1", "BOOL": "|b1"}


def filled(entries):
    """Name to array, every byte told apart from its neighbour."""
    arrays = {}
    for i, (name, code, shape) in enumerate(entries):
        size = int(np.prod(shape))
        arrays[name] = ((np.arange(size) + i) % (2 if code == "BOOL" else 200)).astype(CODES[code]).reshape(shape)
    return arrays


def written(folder, layout, arrays):
    """Write a layout, tensors in reverse order."""
    for shard in layout.shards:
        with ShardWriter(folder / shard.file_name, shard.size) as writer:
            for tensor in reversed(shard.tensors):
                writer.write(tensor.offset, np.ascontiguousarray(arrays[tensor.name]))
            writer.write(0, shard.header)
            writer.finish()
    if layout.index is not None:
        (folder / layout.index_name).write_bytes(layout.index)


ENTRIES = st.dictionaries(
    st.text("abcθ. \"'", min_size=1, max_size=5),
    st.tuples(st.sampled_from(sorted(CODES)), st.lists(st.integers(0, 5), max_size=3).map(tuple)),
    max_size=6,
).map(lambda table: [(name, *rest) for name, rest in table.items()])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ENTRIES, st.integers(1, 600), st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))
def test_round_trip(tmp_path_factory, entries, shard_bytes, metadata):
    folder = tmp_path_factory.mktemp("layout")
    arrays = filled(entries)
    layout = plan_shards(entries, shard_bytes, metadata)
    written(folder, layout, arrays)
    assert layout.size == sum(file.stat().st_size for file in folder.iterdir())

    by_library = {}
    for shard in layout.shards:
        by_library.update(load((folder / shard.file_name).read_bytes()))
        with safe_open(folder / shard.file_name, "np") as library:
            assert (library.metadata() or {}) == metadata
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.metadata == metadata
        assert by_library.keys() == checkpoint.entries.keys() == arrays.keys()
        for name, array in arrays.items():
            data = bytearray(array.nbytes)
            checkpoint.read_into(name, 0, data)
            assert data == array.tobytes() == by_library[name].tobytes()

    for shard in layout.shards:
        offset = len(shard.header)
        for tensor in shard.tensors:
            assert tensor.offset == offset
            assert tensor.offset % max(1, BITS[tensor.dtype] // 8) == 0
            offset += tensor.nbytes
        assert offset == shard.size
        assert len(shard.tensors) <= 1 or offset - len(shard.header) <= shard_bytes


def test_one_shard_is_the_librarys_own_file(tmp_path):
    arrays = {"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float32), "c": np.zeros(3, np.uint8)}
    entries = [("a", "F32", (4,)), ("b", "F32", (2, 2)), ("c", "U8", (3,))]
    written(tmp_path, plan_shards(entries, 10**9, {"format": "pt"}), arrays)
    assert (tmp_path / "model.safetensors").read_bytes() == save(arrays, {"format": "pt"})


def test_shards_close_before_they_overflow():
    entries = [("a", "U8", (4,)), ("b", "U8", (4,)), ("c", "U8", (1,)), ("big", "U8", (20,)), ("d", "U8", (7,))]
    entries.append(("e", "U8", (1,)))
    layout = plan_shards(entries, 8)
    assert [[tensor.name for tensor in shard.tensors] for shard in layout.shards] == [
        ["a", "b"],
        ["c"],
        ["big"],
        ["d", "e"],
    ]
    assert [shard.file_name for shard in layout.shards] == [f"model-0000{i}-of-00004.safetensors" for i in (1, 2, 3, 4)]
    assert layout.index_name == "model.safetensors.index.json"
    table = json.loads(layout.index)
    assert table["metadata"] == {"total_size": 37}
    assert table["weight_map"]["big"] == "model-00003-of-00004.safetensors"
    assert list(table["weight_map"]) == sorted(table["weight_map"])


def test_order_is_kept_among_equal_widths():
    entries = [("z", "U8", (1,)), ("y", "F32", (1,)), ("b", "BF16", (1,)), ("x", "F32", (1,)), ("a", "F16", (1,))]
    (shard,) = plan_shards(entries, 10**9).shards
    assert [tensor.name for tensor in shard.tensors] == ["y", "x", "b", "a", "z"]


def test_another_stem():
    layout = plan_shards([("a", "F32", (1,)), ("b", "F32", (1,))], 4, stem="importance")
    assert layout.index_name == "importance.safetensors.index.json"
    assert layout.shards[0].file_name == "importance-00001-of-00002.safetensors"


def test_no_tensors(tmp_path):
    written(tmp_path, plan_shards([], 10, {"format": "pt"}), {})
    with open_checkpoint(tmp_path) as checkpoint:
        assert (checkpoint.entries, checkpoint.metadata) == ({}, {"format": "pt"})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("a", "F32", (1,)), ("a", "F32", (2,))], "two tensors are named 'a'"),
        ([("a", "F23", (1,))], "'a': unknown dtype 'F23'"),
        ([("a", "F4", (1,))], "do not fill whole bytes"),
        ([("a/b", "F32", (1,))], "path separator"),
        ([("__metadata__", "F32", (1,))], "reserved"),
    ],
)
def test_refusals(entries, message):
    with pytest.raises(InputError, match=message):
        plan_shards(entries, 10)


def test_shard_size_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        plan_shards([], 0)


def test_header_beyond_the_formats_limit():
    with pytest.raises(InputError, match="need a header of"):
        plan_shards([], 10, {"statistics": "x" * 100_000_001})
