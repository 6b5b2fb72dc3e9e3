"""Formulas over all tensors of a model in one launch: one kernel, into which the formula is compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.triton.config import LaunchConfig, elementwise_config, registers
from sta_kernels.kernels.triton.formulas import FORMULAS
from sta_kernels.kernels.triton.formulas.philox import drawn_together
from sta_kernels.kernels.triton.primitives import narrow, pointer, positions, widen
from sta_kernels.kernels.triton.tables import aligned, check_contiguous, chunks, language_dtype, rows, signed, upload

_FOUR_WARPS, _THREE_WARPS, _ALL = 128, 168, 255
"""Registers of a thread, at most: as many as let so many warps a scheduler stay resident, or all."""

_FEW_OPERANDS = 32
"""Elements of models and importances in a thread's hands for which the fewest registers are enough."""

_FEW_WITH_CUTS = 40
"""Likewise, counting the ends of ties, each of which comes with a threshold."""

_MOST_KEPT = 7
"""Models whose addresses and parameters fit the registers beside a formula that has much to compute."""

_MOST_EIGHTS = 8
"""Models of which a thread takes eight elements each."""


@dataclass(frozen=True, slots=True)
class EvaluateSegment:
    """One tensor: its formula with operands, and where the values go (which may be any of the operands).

    Attributes:
        source: what is evaluated.
        out: of as many elements.
        is_field: whether the values are wanted as they are, where they otherwise are added to the base.
    """

    source: FormulaSource
    out: Buffer
    is_field: bool = False


@dataclass(frozen=True)
class Signature:
    """What the kernel is compiled for; segments that share it share a launch.

    Attributes:
        name: of the formula.
        variant: its own.
        added: whether the value is a δ that is added to the base.
        n_shared: number of shared parameters.
        n_per_model: of those per model.
        n_integers: of integers.
        offset: the largest of 8, 4, 2 and 1 that divides the index of the first element.
        base: dtypes of the operands; None without a base.
        models: see there.
        importances: see there.
        out: see there.
        aligned: whether all that is read and written starts at multiples of 16 bytes.
    """

    name: str
    variant: tuple[int, ...]
    added: bool
    n_shared: int
    n_per_model: int
    n_integers: int
    offset: int
    base: DType | None
    models: tuple[DType, ...]
    importances: tuple[DType, ...]
    out: DType
    aligned: bool

    @classmethod
    def of(cls, segment: EvaluateSegment) -> Signature:
        """Signature of one segment.

        Raises:
            ValueError: a buffer with strides, or operands of different sizes.
        """
        source, formula = segment.source, segment.source.formula
        buffers = (*source.operands, segment.out)
        check_contiguous(buffers)
        if len({buffer.size for buffer in buffers}) != 1:
            raise ValueError(f"{formula.name}: {buffers} differ in size")
        return cls(
            formula.name,
            formula.variant,
            FORMULAS[formula.name].is_delta and source.base is not None and not segment.is_field,
            len(formula.shared),
            len(formula.per_model[0]) if formula.per_model else 0,
            len(formula.integers),
            math.gcd(source.offset, 8),
            None if source.base is None else source.base.dtype,
            tuple(model.dtype for model in source.models),
            tuple(importance.dtype for importance in source.importances),
            segment.out.dtype,
            aligned(buffers),
        )

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """Of all that is read and written."""
        base = () if self.base is None else (self.base,)
        return (*base, self.out, *self.models, *self.importances)

    def constants(self) -> dict[str, Any]:
        """Compile-time arguments of the kernel."""
        formula = FORMULAS[self.name]
        return {
            "FORMULA": formula.value,
            "VARIANT": self.variant,
            "ADDED": self.added,
            "SHARED": self.n_shared,
            "PER_MODEL": self.n_per_model,
            "INTEGERS": self.n_integers,
            "CUTS": formula.cuts(self.variant, len(self.models)),
            "ALIGNED": self.aligned,
            "BASE": None if self.base is None else language_dtype(self.base),
            "MODELS": tuple(map(language_dtype, self.models)),
            "IMPORTANCES": tuple(map(language_dtype, self.importances)),
            "OUT": language_dtype(self.out),
        }


def evaluate_config(signature: Signature, n_elements: int) -> LaunchConfig:
    """Launch of a formula: 128-bit accesses, unless computing takes far longer than reading or N fills the registers.

    Then a thread takes as many elements as make 16 bytes of float32.
    """
    few = FORMULAS[signature.name].heavy or len(signature.models) > _MOST_EIGHTS
    least = DType.F32.itemsize if few else 1
    return elementwise_config([max(dtype.itemsize, least) for dtype in signature.dtypes], n_elements)


def launch_evaluate(
    device: torch.device, segments: Sequence[EvaluateSegment], *, config: LaunchConfig | None = None
) -> None:
    """A formula's value at every position of many tensors, or the base with its δ; one launch per signature.

    Tensors of one formula may differ in its parameters, but not in its variant. Where the formula is a merged task
    vector δ and there is a base, ``RN(θ0 + δ)`` is written, and the base's own value where δ is 0.

    Args:
        device: that holds the buffers.
        segments: contiguous buffers of equal size each, any of the dtypes that kernels read.
        config: of the launches; None chooses.

    Raises:
        ValueError: a buffer with strides, or operands of different sizes.
    """
    groups: dict[Signature, list[EvaluateSegment]] = {}
    for segment in segments:
        signature = Signature.of(segment)
        if segment.out.size:
            groups.setdefault(signature, []).append(segment)
    for signature, members in groups.items():
        sizes = [segment.out.size for segment in members]
        launch = config or evaluate_config(signature, sum(sizes))
        table = chunks(sizes, launch.chunk)
        rows_there, chunks_there, numbers, integers = upload(
            device,
            rows([(segment.out.size, i, _addressed(segment)) for i, segment in enumerate(members)]),
            table,
            np.array([_numbers(segment.source.formula) for segment in members], np.float32),
            np.array([_integers(segment.source) for segment in members], np.int64),
        )
        _evaluate_kernel[(len(table),)](
            rows_there,
            chunks_there,
            numbers,
            integers,
            N=len(signature.models),
            **signature.constants(),
            FRUGAL=FORMULAS[signature.name].heavy and len(signature.models) > _MOST_KEPT,
            TOGETHER=drawn_together(signature.offset, launch.per_thread),
            BLOCK=launch.block,
            CHUNK=launch.chunk,
            num_warps=launch.warps,
            enable_fp_fusion=False,
            **_registers(signature, launch),
        )


def _registers(signature: Signature, config: LaunchConfig) -> dict[str, int]:
    """See :func:`registers`."""
    formula = FORMULAS[signature.name]
    held = (len(signature.models) + len(signature.importances)) * config.per_thread
    if formula.heavy or held > _FEW_OPERANDS:
        return registers(_ALL)
    cuts = len(formula.cuts(signature.variant, len(signature.models)))
    return registers(_THREE_WARPS if held + cuts > _FEW_WITH_CUTS else _FOUR_WARPS)


def _addressed(segment: EvaluateSegment) -> tuple[Buffer, ...]:
    source = segment.source
    base = source.models[0] if source.base is None else source.base
    return (base, segment.out, *source.models, *source.importances)


def _numbers(formula: Formula) -> list[float]:
    return [*formula.shared, *(value for row in formula.per_model for value in row)]


def _integers(source: FormulaSource) -> list[int]:
    return [source.offset, *map(signed, source.formula.integers)]


@triton.jit
def _evaluate_kernel(
    rows_ptr,  # int64 [R, 4 + N + importances]: elements, row, base, out, models, importances
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    numbers_ptr,  # float32 [R, SHARED + N * PER_MODEL]
    integers_ptr,  # int64 [R, 1 + INTEGERS]: index of the first element, the formula's
    N: tl.constexpr,
    FORMULA: tl.constexpr,
    VARIANT: tl.constexpr,
    ADDED: tl.constexpr,
    SHARED: tl.constexpr,
    PER_MODEL: tl.constexpr,
    INTEGERS: tl.constexpr,
    CUTS: tl.constexpr,
    TOGETHER: tl.constexpr,
    FRUGAL: tl.constexpr,  # whether what is told of each model is loaded for each block, rather than kept
    ALIGNED: tl.constexpr,
    BASE: tl.constexpr,
    MODELS: tl.constexpr,
    IMPORTANCES: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = tl.load(chunks_ptr + 2 * program).to(tl.int64)
    row_ptr = rows_ptr + row * (4 + N + len(IMPORTANCES))
    numbers_ptr += row * (SHARED + N * PER_MODEL)
    integers_ptr += row * (1 + INTEGERS)
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(row_ptr) - first, CHUNK).to(tl.int32)
    base_ptr = pointer(tl.load(row_ptr + 2), BASE, ALIGNED) + first if BASE is not None else None
    out_ptr = pointer(tl.load(row_ptr + 3), OUT, ALIGNED) + first
    models = () if FRUGAL else _pointers(row_ptr + 4, first, MODELS, ALIGNED)
    importances = _pointers(row_ptr + 4 + N, first, IMPORTANCES, ALIGNED)
    origin = tl.load(integers_ptr) + first
    shared = _loaded(numbers_ptr, SHARED)
    integers = _loaded(integers_ptr + 1, INTEGERS)
    per_model = () if FRUGAL else _rows(numbers_ptr + SHARED, N, PER_MODEL)
    # Where no ties end within a chunk, one comparison serves all of its elements.
    cut_through = False
    for i in tl.static_range(len(CUTS)):
        cut = integers[CUTS[i]] - origin
        cut_through = cut_through | ((cut > 0) & (cut < count))
    done = 0 if cut_through else count // BLOCK * BLOCK
    for start in range(0, done, BLOCK):
        here = positions(start, BLOCK)
        merged = _evaluate(
            base_ptr,
            _pointers(row_ptr + 4, first, MODELS, ALIGNED) if FRUGAL else models,
            importances,
            (origin, start, here, TOGETHER, False),  # a name for it would make tensors of the constants
            None,
            shared,
            _rows(numbers_ptr + SHARED, N, PER_MODEL) if FRUGAL else per_model,
            integers,
            N,
            FORMULA,
            VARIANT,
            ADDED,
            OUT,
        )
        tl.store(out_ptr + here, merged)
    for start in range(done, count, BLOCK):
        here = positions(start, BLOCK)
        inside = here < count
        merged = _evaluate(
            base_ptr,
            _pointers(row_ptr + 4, first, MODELS, ALIGNED) if FRUGAL else models,
            importances,
            (origin, start, here, TOGETHER, True),
            inside,
            shared,
            _rows(numbers_ptr + SHARED, N, PER_MODEL) if FRUGAL else per_model,
            integers,
            N,
            FORMULA,
            VARIANT,
            ADDED,
            OUT,
        )
        tl.store(out_ptr + here, merged, mask=inside)


@triton.jit
def _pointers(row_ptr, first, DTYPES: tl.constexpr, ALIGNED: tl.constexpr):
    """Addresses from a table as pointers to a chunk's first elements."""
    found = ()
    for i in tl.static_range(len(DTYPES)):
        found += (pointer(tl.load(row_ptr + i), DTYPES[i], ALIGNED) + first,)
    return found


@triton.jit
def _loaded(numbers_ptr, COUNT: tl.constexpr):
    """Consecutive parameters."""
    found = ()
    for i in tl.static_range(COUNT):
        found += (tl.load(numbers_ptr + i),)
    return found


@triton.jit
def _rows(numbers_ptr, N: tl.constexpr, COUNT: tl.constexpr):
    """Consecutive parameters of each model."""
    found = ()
    for i in tl.static_range(N):
        found += (_loaded(numbers_ptr + i * COUNT, COUNT),)
    return found


@triton.jit
def _evaluate(
    base_ptr,  # or None
    model_ptrs,
    importance_ptrs,
    index,
    mask,  # of elements that exist, or None
    shared,
    per_model,
    integers,
    N: tl.constexpr,
    FORMULA: tl.constexpr,
    VARIANT: tl.constexpr,
    ADDED: tl.constexpr,
    OUT: tl.constexpr,
):
    """What is to be stored at the positions of a block.

    ``index`` is what a formula may ask of the positions, a tuple: the index of the chunk's first element in its tensor
    (int64); the block's start in the chunk; the offset of each element in the chunk; then, at compile time, how
    many elements are drawn for at once; and whether a cut may lie within the chunk: if not, ties at its first
    element are decided as at all others.
    """
    here = index[2]
    models = ()
    importances = ()
    if base_ptr is None:
        base = tl.zeros(here.shape, tl.float32)
    else:
        stored = _read(base_ptr + here, mask)
        base = widen(stored)
    for i in tl.static_range(N):
        models += (widen(_read(model_ptrs[i] + here, mask)),)
    for i in tl.static_range(len(importance_ptrs)):
        importances += (widen(_read(importance_ptrs[i] + here, mask)),)
    value = FORMULA(base, models, importances, index, shared, per_model, integers, N, VARIANT)
    if ADDED:
        merged = narrow(tl.where(value == 0.0, base, base + value), OUT)
        if OUT == tl.float64 and stored.dtype == tl.float64:  # nothing added: all its digits
            merged = tl.where(value == 0.0, stored, merged)
        return merged
    else:
        return narrow(value, OUT)


@triton.jit
def _read(pointers, mask):
    if mask is None:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=mask, other=0.0)
