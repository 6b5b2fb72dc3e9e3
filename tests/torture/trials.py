"""Kinds of trials: kills, signals, full disks, faults of single calls. Each counts what came of it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torture.runs import SIGNALS, Case, check_stopped

Counts = dict[str, dict[str, int]]
Say = Callable[[str], None]
_MOST_KILLS = 3
_RETRIED = ("short", str(errno.EINTR))


def calls_of(case: Case, shim: Path, log: Path) -> list[tuple[str, str, str]]:
    """What an undisturbed merge asks of the system for its files: name, path, second path."""
    log.unlink(missing_ok=True)
    case.clear()
    ended = case.run(_environment(case, shim) | {"TORTURE_LOG": str(log)})
    assert ended.code == 0, ended.said
    case.check_whole()
    case.clear()
    names = [line.split(" ") for line in log.read_text().splitlines()]
    return [(call, path, other) for call, path, other in names]


def _environment(case: Case, shim: Path, fault: str | None = None) -> dict[str, str]:
    """Of a process under the shim, which looks after inputs and output."""
    under = os.path.commonpath([case.out, case.checkpoints.folder])
    found = {"LD_PRELOAD": str(shim), "TORTURE_UNDER": under}
    return found if fault is None else {**found, "TORTURE_FAULT": fault}


def kills(case: Case, shim: Path, log: Path, trials: int, generator: np.random.Generator, say: Say) -> Counts:
    """Kill, by the clock or at a call, up to three times; cut the power now and then; resume to the same bits."""
    n_calls = len(calls_of(case, shim, log))
    stages: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    while totals["kills"] < trials:
        for _ in range(int(generator.integers(1, _MOST_KILLS + 1))):
            if generator.random() < 0.5:
                ended = case.stop_after(generator.uniform(0, case.seconds), signal.SIGKILL)
                how = "by the clock"
            else:
                ended = case.run(_environment(case, shim, f"any:{generator.integers(1, n_calls + 1)}:kill"))
                how = "at a call"
            assert ended.code in (0, -signal.SIGKILL), f"{ended.code}: {ended.said}"
            stage = case.check_nothing_half()
            if ended.code:
                totals["kills"] += 1
                totals[f"kills {how}"] += 1
                stages[stage] += 1
            if ended.code and stage != "finished" and generator.random() < 0.3:
                case.cut_power(generator)
                totals["power cuts"] += 1
        case.resume()
        totals["resumed to the same bits"] += 1
        case.clear()
        say(f"{case.name}: {totals['kills']} kills")
    return {"totals": dict(totals), "stages": dict(stages)}


def signals(case: Case, trials: int, generator: np.random.Generator) -> Counts:
    """Interrupt and terminate: exit 130 and 143, how to go on is said, and it goes on."""
    totals: Counter[str] = Counter()
    for i in range(trials):
        number = SIGNALS[i % 2]
        ended = case.stop_after(generator.uniform(0, case.seconds), number)
        case.check_nothing_half()
        came = check_stopped(case, ended, number)
        totals[signal.Signals(number).name if came else "before or after the merge"] += 1
        case.resume()
        case.clear()
    return {"totals": dict(totals)}


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None] | None]:
    """A file system of so many bytes, with a function that makes it larger; None where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        yield None
        return
    try:
        yield lambda to: subprocess.run(["mount", "-o", f"remount,size={to}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disks(case: Case, shim: Path, work: Path, points: int, generator: np.random.Generator, say: Say) -> Counts:
    """Too small a disk, whatever is made of it: a real one, a limit to the size of a file, and writes that fail."""
    totals: Counter[str] = Counter()
    out = case.out
    writes = Counter(call for call, _, _ in calls_of(case, shim, work / "calls.log"))["pwrite"]
    most = max(writes * 3 // 4, 1)  # how many there are depends on which worker is first
    for i in range(points):
        share = generator.uniform(0.02, 0.98)
        kind = ("small file system", "limit to the size of a file", "writes that fail")[i % 3]
        if kind == "small file system":
            with small_disk(work / "disk", int(case.bytes * share)) as enlarge:
                if enlarge is None:
                    totals["small file system: not allowed here"] += 1
                    continue
                case.out = work / "disk" / "out"
                try:
                    _full(case, {}, None)
                    enlarge(3 * case.bytes)
                    case.resume()
                finally:
                    case.out = out
        else:
            limit = int(max(case.sizes) * share)
            prepare = None if kind == "writes that fail" else lambda limit=limit: _limit(limit)
            environment = {}
            if kind == "writes that fail":
                environment = _environment(case, shim, f"pwrite:{generator.integers(1, most + 1)}:{errno.ENOSPC}")
                environment["TORTURE_ALWAYS"] = "1"
            _full(case, environment, prepare)
            case.resume()
            case.clear()
        totals[kind] += 1
        say(f"{case.name}: {sum(totals.values())} full disks")
    return {"totals": dict(totals)}


def _limit(size: int) -> None:
    """Of this process's files; what is written beyond fails, rather than end the process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _full(case: Case, environment: dict[str, str], prepare: Callable[[], None] | None) -> None:
    """A merge for which there is no room."""
    ended = case.run(environment, prepare)
    assert ended.code == 1, f"{ended.code}: {ended.said}"
    assert str(case.out) in ended.said, f"the file is not named: {ended.said}"
    assert "Traceback" not in ended.said, ended.said
    case.check_nothing_half()


FAULTS = {
    "open": (errno.EIO, errno.EMFILE, errno.EACCES),
    "read": (errno.EIO, "short", errno.EINTR),
    "pread": (errno.EIO, "short", errno.EINTR),
    "write": (errno.ENOSPC, "short", errno.EINTR),
    "pwrite": (errno.ENOSPC, errno.EIO, "short", errno.EINTR),
    "fsync": (errno.EIO,),
    "ftruncate": (errno.ENOSPC, errno.EINTR),
    "fallocate": (errno.ENOSPC, errno.EOPNOTSUPP),
    "flock": (errno.ENOLCK,),
    "rename": (errno.EIO,),
    "unlink": (errno.EIO,),
    "mkdir": (errno.EACCES,),
}
"""What each call can come to. Short counts and EINTR are no failures: what asked goes on."""


def faults(case: Case, shim: Path, log: Path, every: int, say: Say) -> Counts:
    """Every so-manyth call of a merge fails once, in every way it can; then the merge is resumed to the same bits."""
    per_name = Counter(call for call, _, _ in calls_of(case, shim, log))
    totals: Counter[str] = Counter()
    for call, number in sorted(per_name.items()):
        for what in FAULTS[call]:
            for at in range(1, number + 1, every):
                ended = case.run(_environment(case, shim, f"{call}:{at}:{what}"))
                label = what if isinstance(what, str) else errno.errorcode[what]
                _check_fault(case, ended.code, ended.said, f"{call} {at} of {number}: {label}", str(what) in _RETRIED)
                case.check_nothing_half()
                case.resume()
                case.clear()
                totals[f"{call}: {label}"] += 1
        say(f"{case.name}: {call}: {number} calls")
    return {"totals": dict(totals), "calls": dict(per_name)}


def _check_fault(case: Case, code: int, said: str, where: str, retried: bool) -> None:
    """A call that came to nothing is told by file; one that came to less is made again."""
    assert "Traceback" not in said, f"{where}: {said}"
    if retried:
        assert code == 0, f"{where}: {code}: {said}"
        case.check_whole()
        return
    assert code in (0, 1, 2), f"{where}: {code}: {said}"
    if code:
        folder = os.path.commonpath([case.out, case.checkpoints.folder])
        assert folder in said, f"{where}: the file is not named: {said}"
    else:
        case.check_whole()
