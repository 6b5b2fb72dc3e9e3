"""Hostile PyTorch files: pickles that run code, archives that lie."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from attacks.victim import SECRET, Attack, Victim, without_weights


class Calls:
    """Unpickles by calling a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, Any]:
        return self._call


def archive(content: Any, protocol: int = 2) -> bytes:
    """A zip file as torch.save writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("model/data.pkl", content if isinstance(content, bytes) else pickle.dumps(content, protocol))
        zipped.writestr("model/version", "3\n")
        zipped.writestr("model/byteorder", "little")
    return buffer.getvalue()


def file(name: str, message: str, content: Callable[[Victim], bytes], to: str = "model.pt") -> Attack:
    """The first model as a PyTorch file of these bytes."""

    def plant(victim: Victim) -> None:
        (without_weights(victim.model) / to).write_bytes(content(victim))

    return Attack("PyTorch files", name, plant, message)


def changed(edit: Callable[[bytes], bytes]) -> Callable[[Victim], bytes]:
    """A file of torch's own, then changed."""

    def content(victim: Victim) -> bytes:
        buffer = io.BytesIO()
        torch.save({"layer.weight": torch.ones(2, 3), "layer.bias": torch.ones(2)}, buffer)
        return edit(buffer.getvalue())

    return content


def rebuilt(size: tuple[int, ...], offset: int) -> Callable[[Victim], bytes]:
    """A tensor that claims more than its storage holds."""

    def content(victim: Victim) -> bytes:
        class Beyond:
            def __reduce__(self) -> tuple[Any, Any]:
                storage = torch.ones(4).untyped_storage()
                return torch._utils._rebuild_tensor_v2, (
                    torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True),
                    offset, size, (1,) * len(size), False, {},
                )  # fmt: skip

        buffer = io.BytesIO()
        torch.save({"layer.weight": Beyond()}, buffer)
        return buffer.getvalue()

    return content


def climbing(victim: Victim) -> bytes:
    """An archive whose member would be written outside, if anybody unpacked it."""
    buffer = io.BytesIO(changed(bytes)(victim))
    with zipfile.ZipFile(buffer, "a") as zipped:
        zipped.writestr("../../canary", SECRET)
    return buffer.getvalue()


def zeros(victim: Victim) -> bytes:
    """A pickle of 300 MB that takes 300 KB in the archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped:
        zipped.writestr("model/data.pkl", b"\x80\x02" + b"N0" * 150_000_000 + b".")
        zipped.writestr("model/version", "3\n")
    return buffer.getvalue()


NO_CODE = "no code of a checkpoint is run"

PICKLES = [
    file("runs a command", NO_CODE, lambda v: archive(Calls(os.system, f"touch {v.canary}"))),
    file("runs a command, as .bin", NO_CODE,
         lambda v: archive(Calls(os.system, f"touch {v.canary}")), "pytorch_model.bin"),
    file("runs a command, as .ckpt", NO_CODE,
         lambda v: archive(Calls(os.system, f"touch {v.canary}")), "model.ckpt"),
    file("evaluates an expression", NO_CODE, lambda v: archive({"a": Calls(eval, f"open({str(v.canary)!r}, 'w')")})),
    file("opens a file", NO_CODE, lambda v: archive({"a": Calls(open, str(v.canary), "w")})),
    file("imports a module", NO_CODE, lambda v: archive({"a": Calls(__import__, "antigravity")})),
    file("reads a file", NO_CODE, lambda v: archive({"a": Calls(v.secret.read_bytes)})),
    file("code beside tensors", NO_CODE, lambda v: archive({"layer.weight": 1, "x": Calls(exec, "1")})),
    file("the older format, with a command", "not a zip checkpoint",
         lambda v: pickle.dumps(Calls(os.system, f"touch {v.canary}"), 2)),
    file("a pickle under another name", "not a safetensors file|does not fit|too short",
         lambda v: pickle.dumps(Calls(os.system, f"touch {v.canary}"), 2), "model.safetensors"),
    file("a dictionary that holds itself", "no tensors|nested|not a readable|more than tensors", lambda v: archive(
        b"\x80\x02}q\x00X\x05\x00\x00\x00modelq\x01h\x00s.")),
    file("depth bomb", "not a readable|more than tensors|no tensors|expected a state dict",
         lambda v: archive(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")),
    file("memo bomb", "not a readable|more than tensors|expected a state dict|no tensors",
         lambda v: archive(b"\x80\x02N" + b"".join(b"r" + i.to_bytes(4, "little") for i in range(200_000)) + b".")),
    file("pickle of 300 MB in 300 KB",
         "not a readable|more than tensors|expected a state dict|cannot be mapped", zeros),
    file("pickle cut off", "not a readable|more than tensors", lambda v: archive(b"\x80\x02}q")),
    file("an archive cut off", "not a readable", changed(lambda data: data[: len(data) // 2])),
    file("an archive without a pickle", "not a readable", changed(lambda data: data.replace(b"data.pkl", b"data.plk"))),
    file("a member that climbs", "not a readable", climbing),
    file("a tensor larger than its storage", "not a readable|more than tensors", rebuilt((1000, 1000), 0)),
    file("a tensor before its storage", "not a readable|more than tensors", rebuilt((2,), -4)),
    file("a tensor of negative size", "not a readable|more than tensors", rebuilt((-2, -3), 0)),
]  # fmt: skip
