"""What a launch function would launch: its kernels and every argument, without a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.runtime.jit import JITFunction

_TYPES = {torch.int64: "*i64", torch.int32: "*i32", torch.float32: "*fp32", torch.float64: "*fp64"}
_ALIGNMENT = 16


@dataclass(frozen=True)
class Launched:
    """One launch of a kernel, as Triton's runtime would compile it.

    Attributes:
        kernel: the jitted function.
        signature: Triton type of each argument, ``constexpr`` for those that are compiled in.
        constants: values of the latter.
        divisible: names of those known to be multiples of 16.
        options: compiler options.
        programs: size of the grid.
    """

    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    divisible: tuple[str, ...]
    options: dict[str, Any]
    programs: int


def record(launch: Callable[[], object]) -> list[Launched]:
    """Call a launch function on buffers that need not exist; return what it launches instead of launching it."""
    found: list[Launched] = []
    with _intercepted(lambda kernel, grid, arguments, options: found.append(_bind(kernel, grid, arguments, options))):
        launch()
    return found


@contextmanager
def _intercepted(seen: Callable[..., None]) -> Iterator[None]:
    def run(kernel: JITFunction[Any], *arguments: Any, grid: tuple[int, ...], warmup: bool, **keywords: Any) -> None:
        names = kernel.arg_names
        bound = dict(zip(names, arguments, strict=False))
        bound |= {name: keywords.pop(name) for name in names if name in keywords}
        if missing := [name for name in names if name not in bound]:
            raise TypeError(f"{kernel.__name__} is launched without {missing}")
        seen(kernel, grid, bound, keywords)

    original = JITFunction.run
    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = original


def _bind(
    kernel: JITFunction[Any], grid: tuple[int, ...], arguments: dict[str, Any], options: dict[str, Any]
) -> Launched:
    signature, constants, divisible = {}, {}, []
    for parameter in kernel.params:
        value = arguments[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = _TYPES[value.dtype]
            if value.data_ptr() % _ALIGNMENT == 0:
                divisible.append(parameter.name)
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % _ALIGNMENT == 0:
                divisible.append(parameter.name)
    return Launched(kernel, signature, constants, tuple(divisible), options, grid[0])


def source_of(launched: Launched) -> triton.compiler.ASTSource:
    """What Triton's compiler takes."""
    attributes = {
        (index,): [["tt.divisibility", _ALIGNMENT]]
        for index, name in enumerate(launched.signature)
        if name in launched.divisible
    }
    return triton.compiler.ASTSource(launched.kernel, launched.signature, launched.constants, attributes)
