"""Hostile safetensors files, one row per attack: the bytes, and what the error must say."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass


def file_of(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with this header; ``length`` overrides the true one."""
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    """A record of the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def one(data: bytes = bytes(4), name: str = "a", **record: object) -> bytes:
    """A file with one tensor."""
    return file_of(json.dumps({name: tensor(**record)}), data)


def two(first: tuple[int, int], second: tuple[int, int], size: int, shapes: tuple[int, int] = (1, 1)) -> bytes:
    """A file with two tensors of float32 at these offsets."""
    records = {"a": tensor(shape=[shapes[0]], offsets=first), "b": tensor(shape=[shapes[1]], offsets=second)}
    return file_of(json.dumps(records), bytes(size))


@dataclass(frozen=True)
class Attack:
    """One file.

    Attributes:
        name: of the test.
        content: of the file.
        message: pattern of the error.
        stricter: whether the format's own library reads it, so that the refusal is our rule.
    """

    name: str
    content: bytes
    message: str
    stricter: bool = False


RECORD = json.dumps(tensor())
GOOD = one()

ATTACKS = [
    Attack("empty file", b"", "too short"),
    Attack("seven bytes", GOOD[:7], "too short"),
    Attack("length only", GOOD[:8], "does not fit"),
    Attack("header of no bytes", file_of(""), "does not fit"),
    Attack("header cut", GOOD[:20], "does not fit a file of 20"),
    Attack("length beyond the file", file_of("{}", length=99_999_999), "does not fit"),
    Attack("length beyond the limit", file_of("{}", length=100_000_001), "exceeds 100000000"),
    Attack("length of 2^64 - 1", file_of("{}", length=2**64 - 1), "exceeds"),
    Attack("length of 2^63", file_of("{}", length=2**63), "exceeds"),
    Attack("length short by one", file_of('{"a":1}', length=6), "not valid JSON"),
    Attack("zip archive", b"PK\x03\x04" + bytes(60), "does not fit"),
    Attack("array", file_of("[]"), "not a JSON object"),
    Attack("leading space", file_of(" {}"), "not a JSON object", stricter=True),
    Attack("byte order mark", file_of(b"\xef\xbb\xbf{}"), "not a JSON object"),
    Attack("two objects", file_of("{}{}"), "not valid JSON"),
    Attack("trailing comma", file_of('{"a":' + RECORD + ",}", bytes(4)), "not valid JSON"),
    Attack("NUL padding", file_of(b"{}\0\0"), "not valid JSON"),
    Attack("NaN", file_of('{"a":NaN}'), "NaN is not JSON"),
    Attack("invalid UTF-8", file_of(b'{"\xff":' + RECORD.encode() + b"}", bytes(4)), "not UTF-8 at byte 2"),
    Attack("overlong UTF-8", file_of(b'{"\xc0\xaf":' + RECORD.encode() + b"}", bytes(4)), "not UTF-8"),
    Attack("UTF-16", file_of('{"a":1}'.encode("utf-16-le")), "not valid JSON"),
    Attack("depth bomb of arrays", file_of('{"a":' + "[" * 1_000_000), "nested too deep"),
    Attack("depth bomb of objects", file_of('{"a":' * 1_000_000), "nested too deep"),
    Attack("digit bomb", file_of('{"a":' + "9" * 1_000_000 + "}"), "not valid JSON"),
    Attack(
        "duplicate tensor",
        file_of('{"a":' + RECORD + ',"a":' + RECORD + "}", bytes(4)),
        "'a' stands there twice",
        stricter=True,
    ),
    Attack(
        "duplicate by escape",
        file_of('{"a":' + RECORD + ',"\\u0061":' + RECORD + "}", bytes(4)),
        "'a' stands there twice",
        stricter=True,
    ),
    Attack(
        "duplicate field",
        file_of('{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "'shape' stands there twice",
    ),
    Attack("record not an object", file_of('{"a":[1]}'), "expected dtype, shape and data_offsets"),
    Attack("record is null", file_of('{"a":null}'), "expected dtype"),
    Attack("no dtype", file_of('{"a":{"shape":[1],"data_offsets":[0,4]}}', bytes(4)), "expected dtype"),
    Attack("no shape", file_of('{"a":{"dtype":"F32","data_offsets":[0,4]}}', bytes(4)), "expected dtype"),
    Attack("no offsets", file_of('{"a":{"dtype":"F32","shape":[1]}}', bytes(4)), "expected dtype"),
    Attack("unknown dtype", one(dtype="F23"), "unknown dtype 'F23'"),
    Attack("dtype in lower case", one(dtype="f32"), "unknown dtype 'f32'"),
    Attack("dtype with an escape sequence", one(dtype="\x1b[2J"), r"unknown dtype '\\x1b\[2J'"),
    Attack("dtype not a string", one(dtype=["F32"]), "'a'"),
    Attack("wrong dtype for the bytes", one(dtype="F64"), "takes 8 bytes"),
    Attack("half a byte", one(dtype="F4", shape=[1], offsets=[0, 1], data=b"\0"), "do not fill whole bytes"),
    Attack("shape not a list", one(shape=1), "shape must be"),
    Attack("shape negative", one(shape=[-1, -1]), "shape must be"),
    Attack("shape of minus zero", file_of('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "-0 is no size"),
    Attack("shape of floats", one(shape=[1.0]), "shape must be"),
    Attack("shape of bools", one(shape=[True]), "shape must be"),
    Attack("shape of strings", one(shape=["1"]), "shape must be"),
    Attack("shape beyond 2^64", one(shape=[2**64]), "shape must be"),
    Attack("shape that wraps to 1 in 64 bits", one(shape=[2**63 - 1, 3, 2]), "takes"),
    Attack("shape that wraps to 0 in 64 bits", one(shape=[2**32, 2**32], offsets=[0, 0], data=b""), "takes"),
    Attack("65 dimensions", one(shape=[1] * 65), "at most 64", stricter=True),
    Attack("offsets negative", one(offsets=[-4, 0]), "data_offsets must be"),
    Attack("offsets of floats", one(offsets=[0, 4.0]), "data_offsets must be"),
    Attack("offsets of one", one(offsets=[4]), "data_offsets must be"),
    Attack("offsets of three", one(offsets=[0, 4, 4]), "data_offsets must be"),
    Attack("offsets swapped", one(offsets=[4, 0]), "takes 4 bytes"),
    Attack("offsets beyond 2^64", one(offsets=[0, 2**64]), "data_offsets must be"),
    Attack("offsets too short", one(offsets=[0, 3]), "takes 4 bytes"),
    Attack("offsets beyond the file", one(offsets=[0, 4000], shape=[1000]), "truncated"),
    Attack("data cut", GOOD[:-1], "truncated"),
    Attack("data behind the last tensor", GOOD + b"\0", "belong to no tensor"),
    Attack("data without a tensor", file_of("{}", b"\0"), "belong to no tensor"),
    Attack("hole at the start", one(offsets=[4, 8], data=bytes(8)), "hole"),
    Attack("hole between", two((0, 4), (8, 12), 12), "'b' leaves a hole"),
    Attack("overlap", two((0, 8), (4, 8), 8, (2, 1)), "'b' overlaps"),
    Attack("the same bytes twice", two((0, 4), (0, 4), 4), "'b' overlaps"),
    Attack("overlap hidden by a matching end", two((0, 4), (0, 8), 8, (1, 2)), "overlaps"),
    Attack("metadata not an object", file_of('{"__metadata__":"a"}'), "strings to strings"),
    Attack("metadata of numbers", file_of('{"__metadata__":{"a":1}}'), "strings to strings"),
    Attack("metadata nested", file_of('{"__metadata__":{"a":{}}}'), "strings to strings"),
    Attack("metadata with an unpaired surrogate", file_of('{"__metadata__":{"a":"\\ud800"}}'), "strings to strings"),
    Attack("name empty", one(name=""), "0 characters", stricter=True),
    Attack("name of 5,000 characters", one(name="a" * 5000), "5000 characters", stricter=True),
    Attack("name with a NUL", one(name="a\0b"), r"'a\\x00b' holds unprintable", stricter=True),
    Attack("name with a line feed", one(name="a\nb"), "unprintable", stricter=True),
    Attack("name that clears the terminal", one(name="\x1b[2J"), r"'\\x1b\[2J' holds unprintable", stricter=True),
    Attack("name that turns the line around", one(name="a\u202eb"), "unprintable", stricter=True),
    Attack("name with an unpaired surrogate", file_of('{"\\ud800":' + RECORD + "}", bytes(4)), "unprintable"),
    Attack("name that climbs", one(name="../../a"), "path separator", stricter=True),
    Attack("name absolute", one(name="/etc/passwd"), "path separator", stricter=True),
    Attack("name with a backslash", one(name="a\\b"), "path separator", stricter=True),
]
