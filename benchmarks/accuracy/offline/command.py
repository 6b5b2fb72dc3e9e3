"""``python -m benchmarks.accuracy offline``: fetch, fine-tune, merge, evaluate, record.

    python -m benchmarks.accuracy offline                                    # everything; resumes where it stopped
    python -m benchmarks.accuracy offline --seeds 0 --tasks mnist animals    # some
    python -m benchmarks.accuracy offline --only prepare                     # fine-tuning and importance alone

Exit codes: 0: done; 2: nothing can be had, or fewer than two tasks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.accuracy.offline.plan import Sizes
from benchmarks.accuracy.offline.preparation import Preparation, pretrained
from benchmarks.accuracy.offline.tasks import SOURCES, pools, random_of, split
from sta_kernels.demo.fetch import default_cache
from sta_kernels.demo.pipeline import deterministic
from sta_kernels.errors import RunError

START = time.perf_counter()


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.perf_counter() - START:7.1f} s] {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.accuracy offline")
    option = parser.add_argument
    option("--seeds", type=int, nargs="+", default=[0, 1, 2])
    option("--tasks", nargs="+", choices=SOURCES, default=list(SOURCES))
    option("--cache", type=Path, default=default_cache().with_name("accuracy"))
    option("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    sizes = Sizes()
    base = pretrained(arguments.cache)
    found = pools(arguments.tasks, arguments.cache, say)
    for seed in arguments.seeds:
        for name, pool in found.items():
            parts = split(name, pool, sizes, random_of(seed, name, "split"))
            folder = arguments.cache / sizes.digest() / f"seed{seed}" / name
            with deterministic(seed):
                Preparation(base, parts, seed, sizes, folder).run()
            say(f"seed {seed}: {name} is prepared")
    return 0


if __name__ == "__main__":
    sys.exit(main())
