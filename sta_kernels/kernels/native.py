"""The native backend: ctypes over the C ABI of ``bindings/include/sta_core.h``."""

from __future__ import annotations

import ctypes
import functools
import sys
from array import array
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import TIES, finish_one_by_one
from sta_kernels.kernels.buffers import MEASURES, Buffer, ImportanceSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic

ABI_VERSION = 2
MAX_MODELS = 256
ISAS = ("baseline", "avx2", "avx512", "neon")
_SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
_PATH = Path(__file__).with_name("libsta_core" + _SUFFIX)

_I32, _I64, _F32, _PTR = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
_SIGNATURES: dict[str, list[Any]] = {
    "sta_merge": [_I64, _I32, _PTR, _PTR, _PTR, _I32, _PTR, _I32, _I32, _PTR, _F32, _PTR, _PTR, _PTR],
    "sta_weighted_sum": [_I64, _I32, _PTR, _PTR, _PTR, _F32, _F32, _PTR, _PTR],
    "sta_ranges": [_I32, _PTR, _PTR, _PTR, _I32, _PTR, _PTR, _PTR],
    "sta_histogram": [_I64, _PTR, _PTR, _I32, ctypes.c_uint32, _I32, _I32, _PTR, _PTR],
    "sta_order_statistic": [_I64, _PTR, _PTR, _I32, _I64, _I32, _PTR, _PTR],
    "sta_forget": [_I64, _PTR, _PTR, _PTR, _PTR, _I32, _F32, _F32, _F32, _PTR, _PTR, _PTR],
    "sta_taylor_accumulate": [_I64, _PTR, _PTR, _PTR],
    "sta_taylor_finish": [_I64, _PTR, _PTR, _I32, _PTR, _PTR, _PTR, _PTR],
    "sta_first_nonfinite": [_I64, _I32, _PTR, _PTR, _PTR, _PTR],
    "sta_stream_sum": [_I64, _I32, _PTR, _PTR, _PTR],
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
    for name, arguments in _SIGNATURES.items():
        function = getattr(core, name)
        function.argtypes = arguments
        function.restype = _I32
    core.sta_fold.argtypes = [_PTR, _I64]
    core.sta_fold.restype = ctypes.c_double
    core.sta_isa_available.argtypes = [_I32]
    core.sta_build_info.restype = ctypes.c_char_p
    return core


def build_info() -> str:
    """Compiler and version of the loaded core."""
    return load_core().sta_build_info().decode()


def available_isas() -> tuple[str, ...]:
    """Instruction sets that this build and this processor have, slowest first."""
    core = load_core()
    return tuple(name for code, name in enumerate(ISAS) if core.sta_isa_available(code))


class NativeBackend:
    """Kernels in C++; the instruction set is chosen at run time.

    Args:
        isa: one of :func:`available_isas`; None takes the best.
        tile: elements per kernel step; None lets the core choose.
        streaming_bytes: outputs of at least that size are written past the caches; None lets the core choose.

    The bits depend on none of them.
    """

    name = "native"
    batched = False

    def __init__(self, isa: str | None = None, tile: int | None = None, streaming_bytes: int | None = None) -> None:
        self._core = load_core()
        self._isa = -1 if isa is None else ISAS.index(isa)
        self._tile = tile or 0
        self._streaming_bytes = streaming_bytes or 0

    def grouped(self) -> AbstractContextManager[None]:
        """Nothing to gain: see :meth:`Backend.grouped`."""
        return nullcontext()

    def sta_merge(
        self,
        base: Buffer,
        finetuned: Sequence[Buffer],
        importances: Sequence[Buffer] | None,
        *,
        measure: str,
        normaliser_address: int,
        k: int,
        ties: str,
        weights: Sequence[float] | None,
        lambda_: float,
        out: Buffer,
        counts_address: int,
        threads: int,
    ) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        _check_number(finetuned)
        table = _Table((base, *finetuned, *(importances or ()), out))
        n_tasks = len(finetuned)
        factors = None if weights is None else array("f", weights)
        self._call(
            "sta_merge", threads,
            out.size, n_tasks, table[0], table[1], table[1 + n_tasks] if importances else None,
            MEASURES.index(measure), normaliser_address, k, TIES.index(ties),
            None if factors is None else factors.buffer_info()[0], lambda_, table.last, counts_address or None,
        )  # fmt: skip

    def weighted_sum(
        self,
        base: Buffer | None,
        models: Sequence[Buffer],
        *,
        weights: Sequence[float],
        divisor: float,
        lambda_: float,
        out: Buffer,
        threads: int,
    ) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        _check_number(models)
        table = _Table((*models, base or out, out))
        factors = array("f", weights)
        n_models = len(models)
        self._call(
            "sta_weighted_sum", threads,
            out.size, n_models, None if base is None else table[n_models], table[0],
            factors.buffer_info()[0], divisor, lambda_, table.last,
        )  # fmt: skip

    def ranges(
        self,
        sources: Sequence[ImportanceSource],
        minmax: np.ndarray[Any, Any],
        leaves: Sequence[np.ndarray[Any, Any]] | None,
        *,
        threads: int,
    ) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        if not sources:
            return
        importances, thetas, measure = _columns(sources)
        sizes = array("q", [source.size for source in sources])
        gathered = None
        if leaves is not None:
            gathered = leaves[0] if len(leaves) == 1 else np.empty(sum(map(len, leaves)), np.float64)
        self._call(
            "sta_ranges", threads,
            len(sources), sizes.buffer_info()[0], importances and importances[0], thetas and thetas[0], measure,
            _address(minmax), None if gathered is None else _address(gathered),
        )  # fmt: skip
        if leaves is not None and gathered is not None and len(leaves) > 1:
            start = 0
            for part in leaves:
                part[:] = gathered[start : start + len(part)]
                start += len(part)

    def fold(self, leaves: np.ndarray[Any, Any]) -> float:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        scratch = np.array(leaves, np.float64)
        return self._core.sta_fold(_address(scratch), scratch.size)

    def histogram(
        self,
        source: ImportanceSource,
        *,
        prefix: int,
        prefix_bits: int,
        digit_bits: int,
        counts: np.ndarray[Any, Any],
        threads: int,
    ) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        importance, theta, measure = _columns([source])
        self._call(
            "sta_histogram", threads,
            source.size, importance and importance[0], theta and theta[0], measure,
            prefix, prefix_bits, digit_bits, _address(counts),
        )  # fmt: skip

    def order_statistic(self, source: ImportanceSource, k: int, *, threads: int) -> float:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        return self._select(source, k, 0, threads)

    def order_statistics(self, sources: Sequence[ImportanceSource], ks: Sequence[int], *, threads: int) -> list[float]:
        """One by one: see :meth:`Backend.order_statistics`."""
        return [self.order_statistic(source, k, threads=threads) for source, k in zip(sources, ks, strict=True)]

    def order_statistic_exact(self, x: Buffer, k: int, *, threads: int) -> float:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        return self._select(ImportanceSource("lp", x), k, 1, threads)

    @ieee_arithmetic()  # the result may be subnormal, and so may the threshold below: both are converted in this thread
    def _select(self, source: ImportanceSource, k: int, exact: int, threads: int) -> float:
        importance, theta, measure = _columns([source])
        result = ctypes.c_double()
        self._call(
            "sta_order_statistic", threads,
            source.size, importance and importance[0], theta and theta[0], measure,
            k, exact, ctypes.addressof(result),
        )  # fmt: skip
        return result.value

    @ieee_arithmetic()
    def sta_forget(
        self,
        target: Buffer,
        base: Buffer,
        finetuned: Buffer,
        source: ImportanceSource,
        *,
        threshold: float,
        weight: float,
        lambda_: float,
        out: Buffer,
        counts_address: int,
        threads: int,
    ) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        table = _Table((target, base, finetuned, source.importance or finetuned, out))
        self._call(
            "sta_forget", threads,
            out.size, table[0], table[1], table[2], None if source.importance is None else table[3],
            MEASURES.index(source.measure), threshold, weight, lambda_, table.last, counts_address or None,
        )  # fmt: skip

    def taylor_accumulate(self, total: Buffer, grad: Buffer, *, threads: int) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        table = _Table((total, grad))
        self._call("sta_taylor_accumulate", threads, total.size, table[0], table[1])

    def taylor_finish(
        self,
        total: Buffer,
        param: Buffer,
        *,
        measure: str,
        out: Buffer,
        minmax: np.ndarray[Any, Any],
        leaves: np.ndarray[Any, Any],
        threads: int,
    ) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        table = _Table((total, param, out))
        self._call(
            "sta_taylor_finish", threads,
            out.size, table[0], table[1], MEASURES.index(measure), table.last, _address(minmax), _address(leaves),
        )  # fmt: skip

    def taylor_finish_many(
        self, items: Sequence[tuple[Buffer, Buffer, Buffer]], *, measure: str, threads: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """One by one: see :meth:`Backend.taylor_finish_many`."""
        return finish_one_by_one(self, items, measure, threads)

    def first_nonfinite(self, buffers: Sequence[Buffer], *, threads: int = 1) -> tuple[int, int] | None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        if not buffers:
            return None
        table = _Table(buffers)
        found = (_I64 * 2)()
        address = ctypes.addressof(found)
        self._call("sta_first_nonfinite", threads, buffers[0].size, len(buffers), table[0], address, address + 8)
        return None if found[0] < 0 else (found[0], found[1])

    def stream_sum(self, inputs: Sequence[Buffer], out: Buffer, *, threads: int) -> None:
        """Read the inputs, write their sum: the roofline that the benchmarks hold every op against."""
        table = _Table((*inputs, out))
        self._call("sta_stream_sum", threads, out.size, len(inputs), table[0], table.last)

    def stream_read(self, inputs: Sequence[Buffer], *, threads: int) -> float:
        """Read the inputs and add everything up: the roofline of a reduction."""
        table = _Table(inputs)
        result = ctypes.c_double()
        self._call("sta_stream_read", threads, inputs[0].size, len(inputs), table[0], ctypes.addressof(result))
        return result.value

    def _call(self, name: str, threads: int, *arguments: Any) -> None:
        options = array("q", (threads, self._isa, self._tile, self._streaming_bytes))
        status = getattr(self._core, name)(*arguments, options.buffer_info()[0])
        if status:
            raise (MemoryError if status == -2 else RuntimeError)(f"{name}: {_STATUS.get(status, status)}")


class _Table:
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
        return self._address + 8 * (len(self._words) - 3)


def _check_number(models: Sequence[Buffer]) -> None:
    if len(models) > MAX_MODELS:
        raise InputError(
            f"{len(models)} models: the native core merges at most {MAX_MODELS} at once; merge in groups, or set "
            "STA_KERNELS_BACKEND=reference"
        )


def _columns(sources: Sequence[ImportanceSource]) -> tuple[_Table | None, _Table | None, int]:
    """Importances, thetas and the measure's code of sources that share one measure."""
    measure = sources[0].measure
    importances = _Table([s.importance for s in sources if s.importance is not None]) if measure != "amp" else None
    thetas = _Table([s.theta for s in sources if s.theta is not None]) if measure != "lp" else None
    return importances, thetas, MEASURES.index(measure)


def _address(values: np.ndarray[Any, Any]) -> int:
    return values.__array_interface__["data"][0]
