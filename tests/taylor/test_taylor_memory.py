"""The peak is the model, one accumulator and one layer's gradient: measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS, SIDE = 24, 1024  # 24 matrices of 4 MiB: 96 MiB of model
LAYER = SIDE * SIDE * 4

SCRIPT = f"""
import sys, torch
import sta_kernels as sk
from torch import nn

def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

def run(model, hooked):
    def step():
        model(torch.ones(1, model[0].in_features)).sum().backward()
    if not hooked:
        return step()
    with sk.TaylorImportance(model, "lp_amp") as importance:
        for _ in range(3):
            step()
    return importance

hooked = sys.argv[1] == "hooked"
small = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
run(small, hooked)  # threads, autograd and imports are there before the baseline
model = nn.Sequential(*[nn.Linear({SIDE}, {SIDE}, bias=False) for _ in range({LAYERS})])
before = resident("VmRSS")
kept = run(model, hooked)
print(resident("VmHWM") - before)
"""


def peak(mode: str) -> int:
    """Bytes by which the resident memory rises above the model."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, mode],
        capture_output=True,
        text=True,
        check=True,
        # A freed gradient goes back to the system at once: what is in use is measured, not what malloc keeps in store.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)},
    )
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_peak_is_one_accumulator_and_one_gradient() -> None:
    accumulator = LAYERS * LAYER
    hooked = peak("hooked")
    assert accumulator < hooked < accumulator + 2 * LAYER, f"{hooked / LAYER:.2f} layers, {LAYERS} are the accumulator"
    assert peak("plain") > 0.9 * accumulator, "the measurement sees the gradients that a plain backward keeps"
