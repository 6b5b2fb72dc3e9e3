"""The safetensors header, against attacks and against the format's own library."""

from __future__ import annotations

import numpy as np
import pytest
from attacks.headers import HEADERS, Header, file_of, one
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors import deserialize as library_reads
from safetensors.numpy import save

from sta_kernels.checkpoint.entry import BITS
from sta_kernels.checkpoint.reader import open_checkpoint
from sta_kernels.errors import InputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("attack", HEADERS, ids=lambda attack: attack.name)
def test_attack(path, attack: Header):
    path.write_bytes(attack.content)
    with pytest.raises(InputError, match=attack.message) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()
    if attack.stricter:
        library_reads(attack.content)
    else:
        with pytest.raises((SafetensorError, ValueError)):
            library_reads(attack.content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("no tensors", file_of("{}")),
        ("spaces behind", file_of("{}   ")),
        ("spaces between", file_of('{ "a" : {"dtype": "F32", "shape": [], "data_offsets": [0, 4]} }', bytes(4))),
        ("metadata alone", file_of('{"__metadata__":{"format":"pt"}}')),
        ("scalar", one(shape=[])),
        ("nothing in it", one(shape=[0, 5], offsets=[0, 0], data=b"")),
        ("nothing in it, 2^63 times", one(shape=[2**63 - 1, 0], offsets=[0, 0], data=b"")),
        ("64 dimensions", one(shape=[1] * 64)),
        ("name in Greek", one(name="θ.weight")),
        ("name with a space", one(name="a b")),
        ("odd header length", file_of('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0")),
    ],
)
def test_unusual_but_well_formed(path, name, content):
    path.write_bytes(content)
    library = dict(library_reads(content))
    with open_checkpoint(path) as checkpoint:
        assert {n: list(e.shape) for n, e in checkpoint.entries.items()} == {n: t["shape"] for n, t in library.items()}


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_every_dtype_has_the_librarys_size(path, dtype):
    nbytes = BITS[dtype] * 8 // 8
    content = one(dtype=dtype, shape=[8], offsets=[0, nbytes], data=bytes(nbytes))
    library_reads(content)
    path.write_bytes(content)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.entries["a"].nbytes == nbytes


NAMES = st.text("abc.θ", min_size=1, max_size=6)
ARRAYS = st.tuples(
    st.sampled_from(["<f4", "<f2", "<f8", "<i8", "<u2", "?"]), st.lists(st.integers(0, 4), max_size=4)
).map(lambda item: (np.arange(int(np.prod(item[1]))) % 2 + 3).astype(item[0]).reshape(item[1]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(NAMES, ARRAYS, max_size=5), st.dictionaries(NAMES, NAMES, max_size=2))
def test_reads_what_the_library_writes(path, arrays, metadata):
    path.write_bytes(save(arrays, metadata or None))
    with open_checkpoint(path) as checkpoint, safe_open(path, "np") as library:
        assert checkpoint.entries.keys() == set(library.keys())
        assert checkpoint.metadata == (library.metadata() or {})
        offsets = [entry.offset for entry in checkpoint.entries.values()]
        assert offsets == sorted(offsets)
        for name, array in arrays.items():
            read = np.empty_like(array)
            checkpoint.read_into(name, 0, read)
            assert checkpoint.entries[name].shape == array.shape
            assert read.tobytes() == array.tobytes()


SEEDS = [
    save({"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.int64)}, {"k": "v"}),
    save({"x": np.zeros((0, 3), np.float16), "y": np.ones((), np.float64)}),
]
EDITS = st.lists(
    st.tuples(st.integers(0, 250), st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789{}[]",:- \\eau'))),
    max_size=3,
)


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(SEEDS), EDITS, st.integers(-2, 2))
@example(SEEDS[0], [(0, 0)], 0)
def test_accepts_nothing_that_the_library_refuses(path, seed, edits, resize):
    content = bytearray(seed)
    for position, byte in edits:
        content[position % len(content)] = byte
    content = content[: len(content) + min(resize, 0)] + bytes(max(resize, 0))
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
    except InputError:
        return
    library = dict(library_reads(bytes(content)))
    assert checkpoint.entries.keys() == library.keys()
    for name, entry in checkpoint.entries.items():
        assert (entry.dtype, list(entry.shape)) == (library[name]["dtype"], library[name]["shape"])
        data = bytearray(entry.nbytes)
        checkpoint.read_into(name, 0, data)
        assert data == library[name]["data"]
    checkpoint.close()
