"""The floating-point environment that exact arithmetic presumes: nearest even, subnormals kept, no warnings.

A caller may have set flush-to-zero or another rounding mode for its own thread (``torch.set_flush_denormal`` does),
and NumPy computes under whatever it finds.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from contextlib import ContextDecorator
from typing import Any

import numpy as np

_FE_DFL_ENV = ctypes.c_void_p(-1)  # glibc's macro on the two processors below


def _load_libm() -> Any:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return None
    try:
        return ctypes.CDLL("libm.so.6")
    except OSError:  # another C library
        return None


_libm = _load_libm()
_Environment = ctypes.c_uint64 * 32  # larger than any fenv_t


class ieee_arithmetic(ContextDecorator):  # noqa: N801 - as numpy.errstate, which it extends
    """Compute under the IEEE defaults in this thread, and leave the thread's mode as it was.

    Usable as a decorator. Where the mode cannot be reached (a C library other than glibc, or a processor other than
    x86-64 and AArch64), NumPy computes under the mode that it finds.
    """

    def __enter__(self) -> None:
        self._errors = np.errstate(all="ignore")
        self._errors.__enter__()
        if _libm is not None:
            self._saved = _Environment()
            _libm.fegetenv(self._saved)
            _libm.fesetenv(_FE_DFL_ENV)

    def __exit__(self, *raised: object) -> None:
        if _libm is not None:
            _libm.fesetenv(self._saved)
        self._errors.__exit__(None, None, None)

    def _recreate_cm(self) -> ieee_arithmetic:
        """One per call: a decorated function may call itself, and run on several threads."""
        return ieee_arithmetic()
