"""Coverage-guided fuzzing of the readers (atheris) and of the core's C ABI (libFuzzer), target by target.

    python -m fuzz --seconds 60                        # each target for so long
    python -m fuzz --runs 2000000 --only header        # so many executions of some
    python -m fuzz --keep                              # and add what was found to the committed corpus

Starts from the committed corpus and the seeds. Anything but a refusal in words ends it: a crash, an input that takes a
hundred seconds (on a busy machine, a few are nothing), two gigabytes of memory, a sanitizer's report. The input is then
left in ``--work``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

from fuzz.packing import CORPUS, LONGEST, corpus, packed
from fuzz.seeds import SEEDS, seeds

_OPTIONS = (f"-max_len={LONGEST}", "-timeout=100", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=1")
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_REACHED = re.compile(r"cov: (\d+) ft: (\d+)")
_KEPT_BYTES = 40_000


def main() -> int:
    """Fuzz; 1 where a target failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30, help="per target (default: 30)")
    parser.add_argument("--runs", type=int, help="executions per target, instead")
    parser.add_argument("--only", nargs="*", choices=list(SEEDS), default=list(SEEDS), help="targets (default: all)")
    parser.add_argument("--core", type=Path, help="the core's fuzzer; left out without one")
    parser.add_argument("--work", type=Path, default=Path("fuzz-work"), help="folder for corpora on their way")
    parser.add_argument(
        "--keep", action="store_true", help="replace the committed corpus by the smallest of what is found"
    )
    parser.add_argument("--record", type=Path, help="add what was counted to this JSON file")
    arguments = parser.parse_args()
    failed = []
    for target in arguments.only:
        if target == "core" and arguments.core is None:
            print("core: left out: no fuzzer of it was built, for want of a clang with libFuzzer")
            continue
        if not _fuzz(target, arguments):
            failed.append(target)
    return int(bool(failed))


def _fuzz(target: str, arguments: argparse.Namespace) -> bool:
    """One target."""
    folder = (arguments.work / target).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for data in (*seeds(target), *corpus(target)):
        (folder / hashlib.sha1(data).hexdigest()).write_bytes(data)
    until = f"-runs={arguments.runs}" if arguments.runs else f"-max_total_time={arguments.seconds}"
    program = (
        [str(arguments.core.resolve())] if target == "core" else [sys.executable, "-m", "fuzz.reader_target", target]
    )
    command = [*program, *_OPTIONS, until, f"-artifact_prefix={folder.parent / target}-", str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, errors="replace")
    executed = _EXECUTED.search(done.stderr)
    reached = _REACHED.findall(done.stderr)
    count = int(executed[1]) if executed else 0
    print(
        f"{target}: {count:,} executions, {reached[-1][0] if reached else '?'} edges, exit code {done.returncode}",
        flush=True,
    )
    if done.returncode:
        print(done.stderr[-6000:], file=sys.stderr)
    else:
        if arguments.keep:
            _keep(target, folder)
        if arguments.record:
            _record(arguments.record, target, count, int(reached[-1][0]) if reached else 0)
    return done.returncode == 0


def _keep(target: str, folder: Path) -> None:
    """Pack the shortest inputs, each of which reached something that no other had."""
    CORPUS.mkdir(exist_ok=True)
    kept, total = [], 0
    for data in sorted((path.read_bytes() for path in folder.iterdir()), key=lambda data: (len(data), data)):
        total += len(data) + 2
        if total > _KEPT_BYTES:
            break
        kept.append(data)
    (CORPUS / f"{target}.bin").write_bytes(packed(kept))


def _record(path: Path, target: str, count: int, reached: int) -> None:
    """Add to what earlier runs counted."""
    known = json.loads(path.read_text()) if path.exists() else {}
    before = known.get(target, {"executions": 0, "reached": 0})
    known[target] = {"executions": before["executions"] + count, "reached": max(before["reached"], reached)}
    path.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
