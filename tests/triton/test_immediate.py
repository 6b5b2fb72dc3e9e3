"""The kernels that write tables for a graph: they compile for every target, once for all tables."""

from __future__ import annotations

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sta_kernels.kernels.triton import immediate

TARGETS = [
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 100, 32),
    GPUTarget("hip", "gfx942", 64),
]
KERNELS = {
    "words": (immediate._words_kernel, {}),
    "run": (immediate._run_kernel, {"BLOCK": immediate._BLOCK}),
}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.arch))
@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles(name: str, target: GPUTarget):
    kernel, constants = KERNELS[name]
    signature = {each.name: "constexpr" if each.is_constexpr else each.annotation_type for each in kernel.params}
    signature["there_ptr"] = "*i64"
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=target)
    assert compiled.asm["cubin" if target.backend == "cuda" else "hsaco"]


@pytest.mark.parametrize("name", KERNELS)
def test_no_table_needs_another_compilation(name: str):
    """A compilation is not allowed during a capture, and only captures launch these kernels."""
    kernel, _ = KERNELS[name]
    for each in kernel.params:
        if each.name == "there_ptr":
            assert each.do_not_specialize_on_alignment
        elif not each.is_constexpr:
            assert each.do_not_specialize
            assert each.annotation_type in ("i32", "i64")


def test_a_launch_carries_the_words_it_says():
    assert len(immediate._words_kernel.params) == 2 + immediate.PER_LAUNCH
