"""Digests of blocks, files, tensors and models."""

from __future__ import annotations

import os

import numpy as np
import pytest
import xxhash

from sta_kernels.checkpoint import BLOCK, TensorDigest, block_digest, combine, digest, hash_file, model_digest
from sta_kernels.errors import InputError, RunError


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 17])
def test_file_is_the_digest_of_its_blocks(tmp_path, size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    path = tmp_path / "x"
    path.write_bytes(data)
    expected = [xxhash.xxh3_128_digest(data[i : i + BLOCK]) for i in range(0, size, BLOCK)]
    assert hash_file(path) == (expected, xxhash.xxh3_128_digest(b"".join(expected)))

    tensor = TensorDigest()
    for start in range(0, size, 999_999):
        tensor.update(data[start : start + 999_999])
    assert tensor.digest() == combine(expected)


def test_known_answers():
    """Digests are written into manifests and importance files: they must not change from version to version."""
    assert block_digest(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert combine([]).hex() == "99aa06d3014798d86001c324468d497f"
    assert block_digest(b"abc").hex() == "06b05ab6733a618578af5f94892f3950"
    values = np.arange(4, dtype="<f4")
    record = (1).to_bytes(8, "little") + b"w" + xxhash.xxh3_128_digest(xxhash.xxh3_128_digest(values))
    assert model_digest([("w", [values])]) == xxhash.xxh3_128_hexdigest(record) == "c36fa1facd552afdd24a69bcb6580a2c"


def test_arrays_and_bytes_alike():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert block_digest(array) == block_digest(array.tobytes())
    assert block_digest(np.empty((0, 3), np.float32)) == block_digest(b"")


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="absent: no such file"):
        hash_file(tmp_path / "absent")


def test_file_that_changes_meanwhile(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(bytes(10))

    def touched(block):
        os.utime(path, ns=(1, 1))
        return bytes(16)

    monkeypatch.setattr(digest, "block_digest", touched)
    with pytest.raises(RunError, match="changed while"):
        hash_file(path)


A, B = np.arange(5, dtype=np.float32), np.ones((2, 2), np.float32)


def model(**tensors):
    return model_digest((name, [array]) for name, array in tensors.items())


def test_model_digest_is_of_names_and_values():
    reference = model(a=A, b=B)
    assert len(reference) == 32
    assert model(b=B, a=A) == reference  # a state dict and a file differ in order
    assert model_digest([("a", [A[:2], A[2:]]), ("b", [B])]) == reference
    assert model_digest([("module.b", [B]), ("module.a", [A])]) == reference
    different = [model(a=A), model(a=B, b=A), model(a=A, c=B), model(a=A, b=-B), model(a=A, b=B, c=B), model()]
    assert len({reference, *different}) == 1 + len(different)


def test_names_and_values_do_not_run_together():
    assert model(a=A, ab=B) != model(aa=A, b=B)
