"""Commands as processes of their own, timed and watched from outside."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import records

INTERVAL = 0.01


@dataclass(frozen=True)
class Watched:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        rss_anon: most anonymous resident bytes that a sample saw.
        samples: how often it was looked at.
    """

    seconds: float
    rss_anon: int
    samples: int


def watch(command: Sequence[str], stdout: int | None = None) -> Watched:
    """Run a command beside no source tree, and sample its memory every 10 ms.

    Args:
        command: program and arguments.
        stdout: where its output goes; the terminal by default.

    Raises:
        subprocess.CalledProcessError: it failed; its own message is on the terminal.
    """
    seen: list[int] = []
    ended = threading.Event()
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=records.HERE, env=environment(), stdout=stdout) as process:
        sampler = threading.Thread(target=_sample, args=(process.pid, seen, ended))
        sampler.start()
        try:
            process.wait()
            seconds = time.perf_counter() - began
        except BaseException:
            process.kill()  # or it would be waited for
            raise
        finally:
            ended.set()
            sampler.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Watched(seconds, max(seen, default=0), len(seen))


def environment() -> dict[str, str]:
    """Ours, in which Python may keep what it compiles, as it does when a package is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _sample(pid: int, seen: list[int], ended: threading.Event) -> None:
    while not ended.wait(INTERVAL):
        seen.append(rss_anon(pid))


def rss_anon(pid: int) -> int:
    """Anonymous resident bytes of a process; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0
