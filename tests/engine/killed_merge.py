"""A merge that kills its own process at a given point; run as a script by test_resume.

Arguments: recipe (JSON), output folder, what to count (``record`` of the journal, ``before`` or ``after`` a file takes
its final name, ``second`` of time, ``never``), and at which count to die.
"""

import itertools
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import Any

from sta_kernels.checkpoint import digest

digest.BLOCK = 1 << 14  # before anything takes it over: small files must have many blocks

from sta_kernels.checkpoint.writer import ShardWriter  # noqa: E402
from sta_kernels.engine import journal, memory, merge_checkpoints, verify  # noqa: E402

for kind, sizes in memory.SIZES.items():
    memory.SIZES[kind] = replace(sizes, tile=150 << 10, arena=160 << 10, flow=(150 << 10) if sizes.flow else 0)


def die_at(owner: Any, name: str, count: int, *, after: bool) -> None:
    """Replace a method by one that ends the process at its count-th call."""
    original = getattr(owner, name)
    calls = itertools.count(1)  # its next() is atomic: workers call at the same time

    def counting(*arguments: Any, **keywords: Any) -> Any:
        last = next(calls) == count
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **keywords)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counting)


if __name__ == "__main__":
    recipe, out, point, count = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
    if point == "record":
        die_at(journal.Journal, "_append", int(count), after=True)
    elif point in ("before", "after"):
        die_at(ShardWriter, "finish", int(count), after=point == "after")
    elif point == "second":
        threading.Timer(count, os.kill, (os.getpid(), signal.SIGKILL)).start()
    manifest = merge_checkpoints(recipe, out, threads=2, max_memory="2GB", out_shard_size="40KB")
    print(json.dumps({"kept_bytes": manifest.kept_bytes, "differences": verify(out), "tensors": manifest.tensors}))
    sys.stdout.flush()
    os._exit(0)  # the timer must not outlive the merge
