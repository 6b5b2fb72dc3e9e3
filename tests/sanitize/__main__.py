"""Run the core's tests, and replay the fuzzer's corpus, in cores that sanitizers watch.

    python -m sanitize --address DIR --thread DIR

Each folder holds ``lib`` with the package, its core compiled for the sanitizer (`make sanitize`). Its runtime is
preloaded, since Python knows nothing of it; it ends the process at the first report.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
SUITES = {"address": ["native", "fuzz"], "thread": ["native/test_native_pool.py", "native/test_native_flow.py", "fuzz"]}
LABELS = {"address": "address, undefined behaviour", "thread": "threads"}
_RUNTIMES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
# numpy and the interpreter keep what they allocate until they end.
_OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
}
_REPORT = re.compile(r"ERROR: AddressSanitizer|runtime error:|WARNING: ThreadSanitizer")


def main() -> int:
    """Run both; 1 where a test failed or a sanitizer reported something."""
    parser = argparse.ArgumentParser(prog="python -m sanitize", description=__doc__.splitlines()[0])
    parser.add_argument("--address", type=Path, help="folder of the core for AddressSanitizer and UBSan")
    parser.add_argument("--thread", type=Path, help="folder of the core for ThreadSanitizer")
    parser.add_argument("--record", type=Path, help="write what was counted to this JSON file")
    parser.add_argument("pytest", nargs="*", help="further arguments of pytest")
    arguments = parser.parse_args()
    counts, failed = {}, False
    for kind in SUITES:
        folder = getattr(arguments, kind)
        if folder is None:
            continue
        done = _run(kind, folder, arguments.pytest)
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
        passed = re.search(r"(\d+) passed", done.stdout)
        replayed = [int(number) for number in re.findall(r"core: (\d+) inputs", done.stdout)]
        reports = len(_REPORT.findall(done.stdout + done.stderr))
        counts[LABELS[kind]] = {"passed": int(passed[1]) if passed else 0, "inputs": sum(replayed), "reports": reports}
        failed |= done.returncode != 0 or reports > 0
    if arguments.record and not failed:
        arguments.record.write_text(json.dumps(counts, indent=1) + "\n")
    return int(failed)


def _run(kind: str, folder: Path, further: list[str]) -> subprocess.CompletedProcess[str]:
    """pytest under one sanitizer."""
    compiler = os.environ.get("CXX", "c++")
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in _RUNTIMES[kind]
    ]
    environment = {**os.environ, **_OPTIONS, "LD_PRELOAD": " ".join(runtimes), "PYTHONPATH": str(folder / "lib")}
    command = [sys.executable, "-m", "pytest", *SUITES[kind], "-q", "-s", "-p", "no:cacheprovider", *further]
    return subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, errors="replace")


if __name__ == "__main__":
    sys.exit(main())
