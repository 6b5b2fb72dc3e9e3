"""Importance on the shards of DTensor parameters: in processes that each hold a part, with the bits of the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

RUN = Path(__file__).with_name("sharded_run.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_shards_have_the_bits_of_the_whole(tmp_path: Path) -> None:
    world = 2
    processes = [
        subprocess.Popen(
            [sys.executable, str(RUN), str(rank), str(world), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for process in processes:
            out, errors = process.communicate(timeout=120)
            assert out.endswith("OK\n"), errors
    finally:
        for process in processes:
            process.kill()
