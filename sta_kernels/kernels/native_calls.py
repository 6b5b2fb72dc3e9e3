"""What the native core's calls are made of: the loaded library, and Python's values in the C ABI's structures."""

from __future__ import annotations

import ctypes
import functools
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sta_kernels.errors import InputError
from sta_kernels.kernels.buffers import MEASURES, Buffer
from sta_kernels.kernels.formula import FormulaSource, SoughtCut, Source

ABI_VERSION = 7
MAX_MODELS = 256
ISAS = ("baseline", "avx2", "avx512", "neon")
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
_PATH = Path(__file__).with_name("libsta_core" + _SUFFIX)

_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64
_I32, _I64, _F32, _PTR = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
SIGNATURES: dict[str, list[Any]] = {
    "sta_merge": [_I64, _I32, _PTR, _PTR, _PTR, _I32, _PTR, _I32, _I32, _PTR, _F32, _PTR, _PTR, _PTR],
    "sta_weighted_sum": [_I64, _I32, _PTR, _PTR, _PTR, _F32, _F32, _PTR, _PTR],
    "sta_evaluate": [_I64, _PTR, _PTR, _PTR],
    "sta_ranges": [_I32, _PTR, _PTR, _PTR, _I32, _PTR, _PTR, _PTR, _PTR],
    "sta_histogram": [_I64, _PTR, _PTR, _I32, _PTR, _U32, _I32, _I32, _PTR, _PTR],
    "sta_collect": [_I64, _PTR, _PTR, _I32, _PTR, _PTR, _PTR],
    "sta_order_statistic": [_I64, _PTR, _PTR, _I32, _PTR, _I64, _I32, _PTR, _PTR],
    "sta_count_equal": [_I64, _PTR, _PTR, _I32, _PTR, _F32, _PTR, _PTR, _PTR],
    "sta_rank_gate": [_I64, _I64, _PTR, _PTR, _U64, _U64, _I32, _U64, _U32, _U32, _I64, _PTR, _PTR],
    "sta_values": [_I64, _PTR, _PTR, _I32, _PTR, _I64, _I64, _PTR, _PTR],
    "sta_forget": [_I64, _PTR, _PTR, _PTR, _PTR, _I32, _F32, _F32, _F32, _PTR, _PTR, _PTR],
    "sta_taylor_accumulate": [_I64, _PTR, _PTR, _PTR],
    "sta_taylor_finish": [_I64, _PTR, _PTR, _I32, _PTR, _PTR, _PTR, _PTR],
    "sta_first_nonfinite": [_I64, _I32, _PTR, _PTR, _PTR, _PTR],
    "sta_stream_sum": [_I64, _I32, _PTR, _PTR, _PTR],
    "sta_flow": [_PTR, _PTR],
    "sta_stream_read": [_I64, _I32, _PTR, _PTR, _PTR],
}
_STATUS = {
    -1: "an argument is outside its range",
    -2: "out of memory",
    -3: "this processor or build lacks the instruction set asked for",
}


@functools.cache
def load_core() -> ctypes.CDLL:
    """Load the shared library once.

    Raises:
        OSError: it was not built, does not load, or is of another version.
    """
    if not _PATH.exists():
        if (_PATH.parents[2] / "setup.py").exists():
            raise OSError(
                f"{_PATH.parents[1]} is the source folder, where {_PATH.name} is not built; leave it to import the "
                "installed package, or run: pip install -e ."
            )
        raise OSError(
            f"{_PATH.name} was not built (no C++ compiler at install time?); install one, then the package again"
        )
    core = ctypes.CDLL(str(_PATH))
    core.sta_abi_version.restype = _I32
    if core.sta_abi_version() != ABI_VERSION:
        raise OSError(f"{_PATH.name} has ABI {core.sta_abi_version()}, this package needs {ABI_VERSION}: reinstall it")
    for name, arguments in SIGNATURES.items():
        function = getattr(core, name)
        function.argtypes = arguments
        function.restype = _I32
    core.sta_fold.argtypes = [_PTR, _I64]
    core.sta_fold.restype = ctypes.c_double
    core.sta_isa_available.argtypes = [_I32]
    core.sta_formula_kind.argtypes = [ctypes.c_char_p]
    core.sta_formula_kind.restype = _I32
    core.sta_build_info.restype = ctypes.c_char_p
    core.sta_can_flow.restype = _I32
    return core


def build_info() -> str:
    """Compiler and version of the loaded core."""
    return load_core().sta_build_info().decode()


def available_isas() -> tuple[str, ...]:
    """Instruction sets that this build and this processor have, slowest first."""
    core = load_core()
    return tuple(name for code, name in enumerate(ISAS) if core.sta_isa_available(code))


@functools.cache
def formula_kind(name: str) -> int:
    """The core's number for a formula.

    Raises:
        LookupError: it has none of that name.
    """
    kind = load_core().sta_formula_kind(name.encode())
    if kind < 0:
        raise LookupError(f"the native core has no formula {name!r}")
    return kind


def check_status(name: str, status: int) -> None:
    """Raise what a function's status says."""
    if status:
        raise (MemoryError if status == -2 else RuntimeError)(f"{name}: {_STATUS.get(status, status)}")


class Table:
    """Buffers as the C side's array of operands."""

    __slots__ = ("_address", "_kept", "_words")

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        words: list[int] = []
        kept: list[array[int]] = []
        for buffer in buffers:
            layout = 0
            if buffer.strides is not None:
                record = array("q", (len(buffer.shape), *buffer.shape, *buffer.strides))
                kept.append(record)
                layout = record.buffer_info()[0]
            words += (buffer.address, buffer.dtype, layout)
        self._words = array("q", words)
        self._kept = kept
        self._address = self._words.buffer_info()[0]

    def __getitem__(self, index: int) -> int:
        return self._address + 24 * index

    @property
    def last(self) -> int:
        """The last operand."""
        return self._address + 8 * (len(self._words) - 3)


def check_number(models: Sequence[Buffer]) -> None:
    """Refuse more models than the core's kernels have room for.

    Raises:
        InputError: there are more.
    """
    if len(models) > MAX_MODELS:
        raise InputError(
            f"{len(models)} models: the native core merges at most {MAX_MODELS} at once; merge in groups, or set "
            "STA_KERNELS_BACKEND=reference"
        )


class Sources:
    """What a statistic reduces, as the C side's arguments: importances that share one measure, or formulas."""

    __slots__ = ("_kept", "arguments")

    def __init__(self, sources: Sequence[Source]) -> None:
        formulas = [source for source in sources if isinstance(source, FormulaSource)]
        self.arguments: tuple[int | None, int | None, int, int | None]
        """Importances, thetas, the measure's code, formulas."""
        self._kept: tuple[Any, ...]
        if formulas:
            records = Formulas(formulas)
            self.arguments, self._kept = (None, None, 0, records.address), (records,)
            return
        stored: Sequence[Any] = sources
        measure = stored[0].measure
        importances = Table([s.importance for s in stored]) if measure != "amp" else None
        thetas = Table([s.theta for s in stored]) if measure != "lp" else None
        self.arguments = (
            None if importances is None else importances[0],
            None if thetas is None else thetas[0],
            MEASURES.index(measure),
            None,
        )
        self._kept = importances, thetas


class Formulas:
    """Formulas with their operands as the C side's array of records.

    Args:
        sources: what they are over.
        seeks: whether the caller looks for the cuts that are still sought.
    """

    __slots__ = ("_kept", "_records", "address")

    def __init__(self, sources: Iterable[FormulaSource], *, seeks: bool = False) -> None:
        words: list[int] = []
        self._kept: list[Any] = []
        for source in sources:
            formula = source.formula
            check_number(source.models)
            if not seeks and any(isinstance(number, SoughtCut) for number in formula.integers):
                raise ValueError(f"{formula.name}: a cut that only a pass over files can find")
            width = len(formula.per_model[0]) if formula.per_model else 0
            if formula.per_model and len(formula.per_model) != len(source.models):
                raise ValueError(f"{formula.name}: {len(formula.per_model)} rows for {len(source.models)} models")
            per_model = array("f", [number for row in formula.per_model for number in row])
            arrays = (_integers(formula.variant), array("f", formula.shared), per_model, _integers(formula.integers))
            variant, shared, rows, integers = (values.buffer_info() for values in arrays)
            operands = Table(source.operands)
            self._kept += (operands, *arrays)
            words += (formula_kind(formula.name), len(source.models), source.base is not None, len(source.importances))
            words += (operands[0], *variant, *shared, rows[0], width, *integers, source.offset)
        self._records = array("q", words)
        self.address = self._records.buffer_info()[0]

    @property
    def integers(self) -> int:
        """Where the first formula's integers lie."""
        return self._records[11]


class Collector:
    """Keys of a window that are set aside: order-preserving, as ``bindings/include/sta_core.h`` has them.

    Args:
        window: least and greatest key.
        common: two keys of the window that are counted apart; 0 for none.
        capacity: other keys for which there is room.
        size: elements of the range.
        part: of which so many make a part; None: all of them.
    """

    __slots__ = ("_keys", "_marks", "_words", "part")

    def __init__(
        self, window: tuple[int, int], common: tuple[int, int], capacity: int, size: int, part: int | None = None
    ) -> None:
        low, high = window
        self.part = part or 0
        self._keys = np.empty(capacity, np.uint32)
        self._marks = np.zeros((-(-size // part) - 1 if part else 0, 4), np.int64)
        pairs = ((high - low) << 32 | low, common[1] << 32 | common[0])
        self._words = array("Q", (*pairs, 0, 0, 0, 0, 0, capacity, address_of(self._keys)))

    @property
    def address(self) -> int:
        """Of its memory."""
        return self._words.buffer_info()[0]

    @property
    def marks(self) -> int:
        """Address of what it held where a part began."""
        return address_of(self._marks)

    @property
    def below(self) -> int:
        """Keys below the window."""
        return self._words[2]

    @property
    def overflow(self) -> int:
        """Keys for which there was no room."""
        return self._words[6]

    @property
    def keys(self) -> np.ndarray[Any, Any]:
        """The others, uint32, as they came."""
        return self._keys[: self._words[5]]

    @property
    def _common(self) -> tuple[int, int]:
        return self._words[1] & 0xFFFFFFFF, self._words[1] >> 32

    def count(self, compare: Callable[[Any, Any], Any], key: int) -> int:
        """How many keys of the window compare so with one."""
        pairs = zip(self._common, self._words[3:5], strict=True)
        common = sum(number for each, number in pairs if compare(each, key))
        return common + int(np.count_nonzero(compare(self.keys, np.uint32(key))))

    def before_parts(self, key: int) -> list[tuple[int, int]]:
        """Per part but the first: the element that it begins with, and how many before that have a key."""
        marks = self._marks[self._marks[:, 0] > 0].tolist()  # a slice may be longer than a part, and leave one without
        common = self._common
        if key in common:
            return [(mark[0], mark[1 + common.index(key)]) for mark in marks]
        return [(mark[0], int(np.count_nonzero(self._keys[: mark[3]] == np.uint32(key)))) for mark in marks]


def _integers(values: Sequence[int]) -> array[int]:
    """64-bit words; a seed may use the highest bit."""
    return array("q", [value - (1 << 64) if value >> 63 == 1 else value for value in values])


def address_of(values: np.ndarray[Any, Any]) -> int:
    """Where an array's elements lie."""
    return values.__array_interface__["data"][0]
