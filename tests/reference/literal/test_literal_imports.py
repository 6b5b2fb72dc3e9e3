"""The oracle stands alone: it imports NumPy, the standard library and itself."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from sta_kernels.kernels.reference import literal

SOURCES = sorted(Path(literal.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_imports(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            assert name.startswith(f"{literal.__name__}.") or name.partition(".")[0] in {
                "numpy",
                *sys.stdlib_module_names,
            }
