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
class Header:
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

HEADERS = [
    Header("empty file", b"", "too short"),
    Header("seven bytes", GOOD[:7], "too short"),
    Header("length only", GOOD[:8], "does not fit"),
    Header("header of no bytes", file_of(""), "does not fit"),
    Header("header cut", GOOD[:20], "does not fit a file of 20"),
    Header("length beyond the file", file_of("{}", length=99_999_999), "does not fit"),
    Header("length beyond the limit", file_of("{}", length=100_000_001), "exceeds 100000000"),
    Header("length of 2^64 - 1", file_of("{}", length=2**64 - 1), "exceeds"),
    Header("length of 2^63", file_of("{}", length=2**63), "exceeds"),
    Header("length short by one", file_of('{"a":1}', length=6), "not valid JSON"),
    Header("zip archive", b"PK\x03\x04" + bytes(60), "does not fit"),
    Header("array", file_of("[]"), "not a JSON object"),
    Header("leading space", file_of(" {}"), "not a JSON object", stricter=True),
    Header("byte order mark", file_of(b"\xef\xbb\xbf{}"), "not a JSON object"),
    Header("two objects", file_of("{}{}"), "not valid JSON"),
    Header("trailing comma", file_of('{"a":' + RECORD + ",}", bytes(4)), "not valid JSON"),
    Header("NUL padding", file_of(b"{}\0\0"), "not valid JSON"),
    Header("NaN", file_of('{"a":NaN}'), "NaN is not JSON"),
    Header("invalid UTF-8", file_of(b'{"\xff":' + RECORD.encode() + b"}", bytes(4)), "not UTF-8 at byte 2"),
    Header("overlong UTF-8", file_of(b'{"\xc0\xaf":' + RECORD.encode() + b"}", bytes(4)), "not UTF-8"),
    Header("UTF-16", file_of('{"a":1}'.encode("utf-16-le")), "not valid JSON"),
    Header("depth bomb of arrays", file_of('{"a":' + "[" * 1_000_000), "nested too deep"),
    Header("depth bomb of objects", file_of('{"a":' * 1_000_000), "nested too deep"),
    Header("digit bomb", file_of('{"a":' + "9" * 1_000_000 + "}"), "not valid JSON"),
    Header(
        "duplicate tensor",
        file_of('{"a":' + RECORD + ',"a":' + RECORD + "}", bytes(4)),
        "'a' stands there twice",
        stricter=True,
    ),
    Header(
        "duplicate by escape",
        file_of('{"a":' + RECORD + ',"\\u0061":' + RECORD + "}", bytes(4)),
        "'a' stands there twice",
        stricter=True,
    ),
    Header(
        "duplicate field",
        file_of('{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "'shape' stands there twice",
    ),
    Header("record not an object", file_of('{"a":[1]}'), "expected dtype, shape and data_offsets"),
    Header("record is null", file_of('{"a":null}'), "expected dtype"),
    Header("no dtype", file_of('{"a":{"shape":[1],"data_offsets":[0,4]}}', bytes(4)), "expected dtype"),
    Header("no shape", file_of('{"a":{"dtype":"F32","data_offsets":[0,4]}}', bytes(4)), "expected dtype"),
    Header("no offsets", file_of('{"a":{"dtype":"F32","shape":[1]}}', bytes(4)), "expected dtype"),
    Header("unknown dtype", one(dtype="F23"), "unknown dtype 'F23'"),
    Header("dtype in lower case", one(dtype="f32"), "unknown dtype 'f32'"),
    Header("dtype with an escape sequence", one(dtype="\x1b[2J"), r"unknown dtype '\\x1b\[2J'"),
    Header("dtype not a string", one(dtype=["F32"]), "'a'"),
    Header("wrong dtype for the bytes", one(dtype="F64"), "takes 8 bytes"),
    Header("half a byte", one(dtype="F4", shape=[1], offsets=[0, 1], data=b"\0"), "do not fill whole bytes"),
    Header("shape not a list", one(shape=1), "shape must be"),
    Header("shape negative", one(shape=[-1, -1]), "shape must be"),
    Header("shape of minus zero", file_of('{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "-0 is no size"),
    Header("shape of floats", one(shape=[1.0]), "shape must be"),
    Header("shape of bools", one(shape=[True]), "shape must be"),
    Header("shape of strings", one(shape=["1"]), "shape must be"),
    Header("shape beyond 2^64", one(shape=[2**64]), "shape must be"),
    Header("shape that wraps to 1 in 64 bits", one(shape=[2**63 - 1, 3, 2]), "takes"),
    Header("shape that wraps to 0 in 64 bits", one(shape=[2**32, 2**32], offsets=[0, 0], data=b""), "takes"),
    Header("65 dimensions", one(shape=[1] * 65), "at most 64", stricter=True),
    Header("offsets negative", one(offsets=[-4, 0]), "data_offsets must be"),
    Header("offsets of floats", one(offsets=[0, 4.0]), "data_offsets must be"),
    Header("offsets of one", one(offsets=[4]), "data_offsets must be"),
    Header("offsets of three", one(offsets=[0, 4, 4]), "data_offsets must be"),
    Header("offsets swapped", one(offsets=[4, 0]), "takes 4 bytes"),
    Header("offsets beyond 2^64", one(offsets=[0, 2**64]), "data_offsets must be"),
    Header("offsets too short", one(offsets=[0, 3]), "takes 4 bytes"),
    Header("offsets beyond the file", one(offsets=[0, 4000], shape=[1000]), "truncated"),
    Header("data cut", GOOD[:-1], "truncated"),
    Header("data behind the last tensor", GOOD + b"\0", "belong to no tensor"),
    Header("data without a tensor", file_of("{}", b"\0"), "belong to no tensor"),
    Header("hole at the start", one(offsets=[4, 8], data=bytes(8)), "hole"),
    Header("hole between", two((0, 4), (8, 12), 12), "'b' leaves a hole"),
    Header("overlap", two((0, 8), (4, 8), 8, (2, 1)), "'b' overlaps"),
    Header("the same bytes twice", two((0, 4), (0, 4), 4), "'b' overlaps"),
    Header("overlap hidden by a matching end", two((0, 4), (0, 8), 8, (1, 2)), "overlaps"),
    Header("metadata not an object", file_of('{"__metadata__":"a"}'), "strings to strings"),
    Header("metadata of numbers", file_of('{"__metadata__":{"a":1}}'), "strings to strings"),
    Header("metadata nested", file_of('{"__metadata__":{"a":{}}}'), "strings to strings"),
    Header("metadata with an unpaired surrogate", file_of('{"__metadata__":{"a":"\\ud800"}}'), "strings to strings"),
    Header("name empty", one(name=""), "0 characters", stricter=True),
    Header("name of 5,000 characters", one(name="a" * 5000), "5000 characters", stricter=True),
    Header("name with a NUL", one(name="a\0b"), r"'a\\x00b' holds unprintable", stricter=True),
    Header("name with a line feed", one(name="a\nb"), "unprintable", stricter=True),
    Header("name that clears the terminal", one(name="\x1b[2J"), r"'\\x1b\[2J' holds unprintable", stricter=True),
    Header("name that turns the line around", one(name="a\u202eb"), "unprintable", stricter=True),
    Header("name with an unpaired surrogate", file_of('{"\\ud800":' + RECORD + "}", bytes(4)), "unprintable"),
    Header("name that climbs", one(name="../../a"), "path separator", stricter=True),
    Header("name absolute", one(name="/etc/passwd"), "path separator", stricter=True),
    Header("name with a backslash", one(name="a\\b"), "path separator", stricter=True),
]
