"""The core compiles for AArch64, where its kernels go through vector types to NEON; clang's own warnings are errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BINDINGS = Path(__file__).parents[2] / "bindings"


@pytest.mark.audit
@pytest.mark.parametrize("unit", ["isa_neon", "api", "formula", "rank_gate", "select", "dispatch", "layout", "pool"])
def test_compiles_for_aarch64(unit: str, tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="cross-compiles with the clang of the ziglang package")
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{BINDINGS / 'include'}"]
    command = [sys.executable, "-m", "ziglang", "c++", "-target", "aarch64-linux-gnu", *flags]
    done = subprocess.run(
        [*command, "-c", str(BINDINGS / "src" / f"{unit}.cpp"), "-o", str(tmp_path / "unit.o")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
