"""The architectures that kernels are compiled for, and public figures of the chips that the time model speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from triton.backends.compiler import GPUTarget

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
"""Compiler targets by architecture."""

AUDITED = ("sm_80", "sm_90")
"""Architectures whose machine code the rules hold for; the others are compiled and shown."""

WARP = 32
PARTITIONS = 4
"""Schedulers of a multiprocessor, each issuing one instruction of one warp per clock."""

ISSUE = PARTITIONS * WARP
"""Thread instructions that a multiprocessor issues per clock."""


class Pipe(Enum):
    """What executes an instruction; named as in NVIDIA's Nsight Compute."""

    FMA = "fma"
    IMAD = "imad"
    ALU = "alu"
    XU = "xu"
    FP64 = "fp64"
    LSU = "lsu"
    UNIFORM = "uniform"
    CONTROL = "control"


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        name: as sold.
        arch: what it runs; a key of :data:`TARGETS`.
        multiprocessors: that are enabled.
        clock: Hz, under load.
        bandwidth: of its memory, bytes/s.
        shared: bytes of shared memory per multiprocessor.
        rates: thread instructions per clock and multiprocessor, by groups of pipes that share units.
        l2_latency: cycles from a load to its use where L2 holds the line.
        dram_latency: likewise where nothing does and nothing else is under way.
    """

    name: str
    arch: str
    multiprocessors: int
    clock: float
    bandwidth: float
    shared: int
    rates: tuple[tuple[frozenset[Pipe], int], ...]
    l2_latency: int
    dram_latency: int


# Per multiprocessor, of compute capability 8.0 and 9.0 alike: CUDA C++ Programming Guide, "Technical Specifications per
# Compute Capability".
REGISTERS = 65536
MOST_WARPS = 64
MOST_PROGRAMS = 32
# Registers are handed to warps in units of 256, shared memory to programs in units of 128 bytes after 1 KiB that the
# system keeps: Nsight Compute's occupancy tables, same compute capabilities.
REGISTER_UNIT = 256
SHARED_UNIT = 128
SHARED_KEPT = 1024

# CUDA C++ Best Practices Guide 13.0, "Throughput of Native Arithmetic Instructions": float32 add, multiply and fused
# multiply-add 64 results per clock (8.0) and 128 (9.0); integer multiply-add 64, within the same units; compare,
# minimum, maximum, select, logic, shift and integer add 64; reciprocal and conversions 16; float64 32 and 64; shuffles
# 32, as are memory accesses of 32 lanes.
_COMMON = (
    (frozenset({Pipe.IMAD}), 64),
    (frozenset({Pipe.ALU}), 64),
    (frozenset({Pipe.XU}), 16),
    (frozenset({Pipe.LSU}), 32),
)
_RATES_80 = (*_COMMON, (frozenset({Pipe.FMA, Pipe.IMAD}), 64), (frozenset({Pipe.FP64}), 32))
_RATES_90 = (*_COMMON, (frozenset({Pipe.FMA, Pipe.IMAD}), 128), (frozenset({Pipe.FP64}), 64))

# Latencies: Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture (arXiv 2402.13499), pointer
# chase on an A100 and an H100, rounded. Nothing better is public for the H200, whose processor is the H100's.
CHIPS = (
    Chip(
        "A100",
        "sm_80",
        multiprocessors=108,  # NVIDIA A100 Tensor Core GPU Architecture
        clock=1.41e9,  # same; the boost clock, which it holds
        bandwidth=2.039e12,  # NVIDIA A100 datasheet, 80 GB SXM
        shared=164 << 10,
        rates=_RATES_80,
        l2_latency=260,
        dram_latency=470,
    ),
    Chip(
        "H100",
        "sm_90",
        multiprocessors=132,  # NVIDIA H100 Tensor Core GPU Architecture, SXM5
        # The PCIe card's boost clock. The SXM5's is 1.98 GHz, from which its power limit brings it down under load;
        # the lower one leaves instructions less of a budget.
        clock=1.755e9,
        bandwidth=3.35e12,  # NVIDIA H100 datasheet, SXM
        shared=228 << 10,
        rates=_RATES_90,
        l2_latency=270,
        dram_latency=480,
    ),
    Chip(
        "H200",
        "sm_90",
        multiprocessors=132,  # NVIDIA H200 datasheet: the H100's processor
        clock=1.755e9,
        bandwidth=4.8e12,  # same
        shared=228 << 10,
        rates=_RATES_90,
        l2_latency=270,
        dram_latency=480,
    ),
)
"""Chips that the model has figures for."""
