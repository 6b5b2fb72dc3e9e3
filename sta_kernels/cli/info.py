"""``sta-kernels info``: what serves on this machine, and why."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from sta_kernels._version import __version__
from sta_kernels.cli.arguments import Parser
from sta_kernels.cli.render import size, table
from sta_kernels.errors import InputError, RunError

_LIBRARIES = ("numpy", "torch", "triton", "safetensors", "PyYAML", "xxhash", "tqdm")
_NO_CORE = (
    "The NumPy reference serves instead: the same bits, many times slower. Install a C++17 compiler (g++ or clang++) "
    "and install again from the source tree: pip install --force-reinstall --no-deps ."
)


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = Parser(
        prog="sta-kernels info",
        description="Print the version, the backend chosen and why, the native core's build and instruction sets.",
        epilog="example:\n  sta-kernels info\n  sta-kernels info --gpu --json\n\n"
        "exit code 0, also where no backend serves as the environment asks: the report says so, as JSON in `problem`",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--gpu", action="store_true", help="look for GPUs too; imports torch, which takes seconds")
    result.add_argument("--json", action="store_true", help="print as JSON")
    return result


def run(argv: Sequence[str]) -> int:
    """Print what was found."""
    arguments = parser().parse_args(argv)
    facts = collect(gpu=arguments.gpu)
    if arguments.json:
        print(json.dumps(facts, indent=2))
    else:
        print(render(facts))
    return 0


def collect(*, gpu: bool = False) -> dict[str, Any]:
    """Facts about this installation; torch and Triton are looked up, not imported.

    Args:
        gpu: import them, and ask for the GPUs.

    Returns:
        As JSON types. Where STA_KERNELS_BACKEND names no backend, or one that cannot serve, ``backend`` and ``reason``
        are None, and ``problem`` says why.
    """
    from sta_kernels import kernels, methods

    backend: dict[str, str | None]
    try:
        choice = kernels.choose()
        backend = {"backend": choice.name, "reason": choice.reason, "problem": None}
    except (InputError, RunError) as error:
        backend = {"backend": None, "reason": None, "problem": str(error)}
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
        **backend,
        "native": native,
        "triton": _triton(gpu),
        "threads": kernels.default_threads(),
        "methods": list(methods.names()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _triton(gpu: bool) -> dict[str, Any]:
    """Where Triton's kernels can serve; ``gpus`` only where asked for."""
    from sta_kernels.kernels import interpreted

    if find_spec("triton") is None or find_spec("torch") is None:
        return {"available": False, "problem": "Triton or torch is not installed"}
    facts: dict[str, Any] = {"available": True, "interpreting": interpreted()}
    if gpu:
        from sta_kernels.engine.devices import gpu_problem

        problem = gpu_problem()
        facts |= {"gpus": _gpus()} if problem is None else {"gpus": [], "gpu_problem": problem}
    return facts


def _gpus() -> list[dict[str, Any]]:
    import torch

    found = []
    for i in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(i)
        capability = f"{known.major}.{known.minor}"
        found.append(
            {"device": f"cuda:{i}", "name": known.name, "capability": capability, "memory": known.total_memory}
        )
    return found


def render(facts: dict[str, Any]) -> str:
    """The facts as aligned lines."""
    native = facts["native"]
    if native["available"]:
        core = [("native core", native["build"]), ("instruction sets", _isas(native["instruction_sets"]))]
    else:
        core = [("native core", f"none: {native['problem']}"), ("", native["what_to_do"])]
    backend = f"{facts['backend']} ({facts['reason']})" if facts["backend"] else f"none: {facts['problem']}"
    lines = [
        ("sta-kernels", facts["version"]),
        ("backend", backend),
        *core,
        *_triton_lines(facts["triton"]),
        ("threads", str(facts["threads"])),
        ("methods", ", ".join(facts["methods"])),
        ("python", f"{facts['python']} on {facts['platform']}"),
        *((name.lower(), version or "not installed") for name, version in facts["libraries"].items()),
    ]
    return table(lines)


def _triton_lines(triton: dict[str, Any]) -> list[tuple[str, str]]:
    if not triton["available"]:
        return [("triton kernels", f"none: {triton['problem']}")]
    lines = [("triton kernels", "on GPUs; on this CPU in Triton's interpreter (--device interpret: slow, a proof)")]
    if "gpus" not in triton:
        lines.append(("gpus", "not looked for (--gpu does)"))
    elif not triton["gpus"]:
        lines.append(("gpus", f"none: {triton['gpu_problem']}"))
    for i, gpu in enumerate(triton.get("gpus", ())):
        what = f"{gpu['name']}, compute capability {gpu['capability']}, {size(gpu['memory'])}"
        lines.append(("gpus" if i == 0 else "", f"{gpu['device']}: {what}"))
    return lines


def _isas(names: list[str]) -> str:
    return ", ".join((*names[:-1], f"{names[-1]} (used)"))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
