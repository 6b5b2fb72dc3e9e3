"""``sta-kernels info``: what serves on this machine, and why."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from sta_kernels._version import __version__
from sta_kernels.cli.render import table

_LIBRARIES = ("numpy", "torch", "triton", "safetensors", "PyYAML", "xxhash", "tqdm")
_NO_CORE = (
    "The NumPy reference serves instead: the same bits, many times slower. Install a C++17 compiler (g++ or clang++) "
    "and install again from the source tree: pip install --force-reinstall --no-deps ."
)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = argparse.ArgumentParser(
        prog="sta-kernels info",
        description="Print the version, the backend chosen and why, the native core's build and instruction sets.",
        epilog="example:\n  sta-kernels info\n  sta-kernels info --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--json", action="store_true", help="print as JSON")
    return result


def run(argv: Sequence[str]) -> int:
    """Print what was found."""
    arguments = parser().parse_args(argv)
    facts = collect()
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print(render(facts))
    return 0


def collect() -> dict[str, Any]:
    """Facts about this installation; torch and Triton are looked up, not imported.

    Raises:
        InputError: STA_KERNELS_BACKEND names no backend.
        RunError: it names one that cannot serve.
    """
    from sta_kernels import kernels, methods

    choice = kernels.choose()
    problem = kernels.native_problem()
    native: dict[str, Any] = {"available": problem is None}
    if problem is None:
        from sta_kernels.kernels.native import available_isas, build_info

        native["build"] = build_info()
        native["instruction_sets"] = list(available_isas())
    else:
        native["problem"] = problem
        native["what_to_do"] = _NO_CORE
    return {
        "version": __version__,
        "backend": choice.name,
        "reason": choice.reason,
        "native": native,
        "threads": kernels.default_threads(),
        "methods": list(methods.names()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def render(facts: dict[str, Any]) -> str:
    """The facts as aligned lines."""
    native = facts["native"]
    if native["available"]:
        core = [("native core", native["build"]), ("instruction sets", _isas(native["instruction_sets"]))]
    else:
        core = [("native core", f"none: {native['problem']}"), ("", native["what_to_do"])]
    lines = [
        ("sta-kernels", facts["version"]),
        ("backend", f"{facts['backend']} ({facts['reason']})"),
        *core,
        ("threads", str(facts["threads"])),
        ("methods", ", ".join(facts["methods"])),
        ("python", f"{facts['python']} on {facts['platform']}"),
        *((name.lower(), version or "not installed") for name, version in facts["libraries"].items()),
    ]
    return table(lines)


def _isas(names: list[str]) -> str:
    return ", ".join((*names[:-1], f"{names[-1]} (used)"))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
