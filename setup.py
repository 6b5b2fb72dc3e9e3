"""Builds the native core: one shared library, one translation unit per instruction set, no torch, no Python in it.

Everything else is declared in pyproject.toml. Without a working C++ compiler the build goes on without the library, and
the package runs on its NumPy reference.
"""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("bindings/src")
COMMON = ["-std=c++17", "-O2", "-g0", "-fPIC", "-pthread"]
COMMON += ["-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
EVERYWHERE = ("api", "digest", "dispatch", "flow", "formula", "layout", "pool", "rank_gate", "select", "steps")
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
# GCC reports its own AVX-512 header as using uninitialised values.
AVX512 = [
    *AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
]


def units() -> list[tuple[str, list[str]]]:
    """Translation units for this machine, the longest to compile first, and their flags."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        kernels = [("isa_avx512", AVX512), ("isa_avx2", AVX2), ("isa_baseline", [])]
    elif machine in ("aarch64", "arm64"):
        kernels = [("isa_neon", [])]
    else:
        kernels = [("isa_baseline", [])]
    return [*kernels, *((name, []) for name in EVERYWHERE)]


class BuildCore(build_ext):
    """Compiles the units side by side and links them; the result is loaded with ctypes, not imported."""

    def get_ext_filename(self, fullname: str) -> str:
        """A plain shared library's name: it belongs to no Python version."""
        return str(Path(*fullname.split("."))) + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None: the ABI is exported by its own declarations."""
        return []

    def build_extension(self, ext: Extension) -> None:
        """Compile and link."""
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)

        def compile_unit(unit: tuple[str, list[str]]) -> str:
            name, flags = unit
            return self.compiler.compile(
                [str(SOURCES / f"{name}.cpp")],
                output_dir=self.build_temp,
                include_dirs=["bindings/include"],
                extra_postargs=[*COMMON, *flags],
                depends=ext.depends,
            )[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, units()))
        self.compiler.link_shared_object(objects, str(target), extra_postargs=["-pthread"], target_lang="c++")


class PlatformWheel(bdist_wheel):
    """Tags the wheel for any Python 3 on this platform: the core has no Python in it."""

    def get_tag(self) -> tuple[str, str, str]:
        """The tag's three parts."""
        return "py3", "none", super().get_tag()[2]


core = Extension(
    "sta_kernels.kernels.libsta_core",
    sources=[str(SOURCES / f"{name}.cpp") for name, _ in units()],
    depends=[str(path) for suffix in ("*.h", "*.inl") for path in Path("bindings").rglob(suffix)],
    optional=True,
    language="c++",
)

setup(ext_modules=[core], cmdclass={"build_ext": BuildCore, "bdist_wheel": PlatformWheel})
