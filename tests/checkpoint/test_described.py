"""Small files that describe others: a device that fails is never taken for a file that says nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sta_kernels.checkpoint import positioned
from sta_kernels.checkpoint.adapter_config import AdapterConfig
from sta_kernels.checkpoint.folder import read_index, read_json, read_small
from sta_kernels.checkpoint.header import MAX_HEADER
from sta_kernels.engine.chat_template import own_template
from sta_kernels.errors import InputError, RunError

READERS: dict[str, Callable[[Path], Any]] = {
    "adapter_config.json": lambda file: AdapterConfig.read(file.parent),
    "model.safetensors.index.json": read_index,
    "config.json": read_json,
    "chat_template.jinja": lambda file: own_template([file]),
}


@pytest.mark.parametrize("name", READERS)
def test_a_failing_device_is_told_by_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / name
    file.write_text('{"peft_type": "LORA"}')

    def fails(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(positioned, "_pread", fails)
    with pytest.raises(RunError, match=f"{name}: read at byte 0 failed: {os.strerror(errno.EIO)}"):
        READERS[name](file)


def test_what_is_too_large_describes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    with file.open("wb") as stream:
        stream.truncate(MAX_HEADER + 1)
    with pytest.raises(InputError, match=r"config\.json: a configuration of .* bytes exceeds"):
        read_small(file, "a configuration")
    assert read_json(file) is None
