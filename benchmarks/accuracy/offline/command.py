"""``python -m benchmarks.accuracy offline``: fetch, fine-tune, merge, evaluate, record.

    python -m benchmarks.accuracy offline                                    # everything; goes on where it stopped
    python -m benchmarks.accuracy offline --seeds 0 --tasks mnist animals --results /tmp/rows      # a trial
    python -m benchmarks.accuracy offline --only prepare                     # fine-tuning and importance alone
    python -m benchmarks.accuracy offline --only merging controls            # some tables

Processes may share a cache: one that prepares seed 1 beside one that prepares seed 0, say.

Exit codes: 0: done; 1: a download failed that everything needs; 2: fewer than two tasks can be had.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import records
from benchmarks.accuracy.offline.catalogue import catalogue
from benchmarks.accuracy.offline.collect import OP, SUITE, Collection
from benchmarks.accuracy.offline.laboratory import Laboratory
from benchmarks.accuracy.offline.merges import Merge, Outcome, run
from benchmarks.accuracy.offline.plan import Sizes
from benchmarks.accuracy.offline.preparation import pretrained
from benchmarks.accuracy.offline.statistics import Array
from benchmarks.accuracy.offline.tasks import SOURCES, Pool, pools
from sta_kernels.demo.fetch import default_cache
from sta_kernels.demo.pipeline import deterministic
from sta_kernels.demo.vit import Vit
from sta_kernels.errors import RunError

PREPARE = "prepare"
SECTIONS = tuple(catalogue(tuple(SOURCES)))
LEAST_TASKS = 2


class Clock:
    """Prints lines with the seconds since the start."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.perf_counter() - self._start:7.1f} s] {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite, or what is left of it, and record its rows."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.accuracy offline", description="Accuracy of merges of a real ViT on real image tasks."
    )
    option = parser.add_argument
    option("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of splits, heads and training (default: 0 1 2)")
    option("--tasks", nargs="+", choices=SOURCES, default=list(SOURCES), metavar="TASK", help=", ".join(SOURCES))
    what = (PREPARE, *SECTIONS)
    option("--only", nargs="+", choices=what, default=list(what), metavar="PART", help=", ".join(what))
    option("--cache", type=Path, default=default_cache().with_name("accuracy"), help="10 GB (default: %(default)s)")
    option("--threads", type=int, default=2, help="of torch and of merges (default: 2)")
    option("--results", type=Path, default=records.RESULTS, help="folder for the rows (default: %(default)s)")
    arguments = parser.parse_args(argv)
    say = Clock()
    torch.set_num_threads(arguments.threads)
    try:
        found = pools(arguments.tasks, arguments.cache, say)
        if len(found) < LEAST_TASKS:
            print(f"merging needs {LEAST_TASKS} tasks, and {len(found)} can be had", file=sys.stderr)
            return 2
        base = pretrained(arguments.cache)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    suite = Suite(base, found, arguments.seeds, Sizes(), arguments.cache, say)
    if PREPARE in arguments.only:
        suite.prepare()
    sections = [section for section in SECTIONS if section in arguments.only]
    if sections:
        rows = suite.rows(sections)
        records.append(arguments.results, rows)
        say(f"{len(rows)} rows written to {arguments.results / OP}.jsonl")
    return 0


class Suite:
    """The merges of some tasks by some seeds.

    Args:
        base: the pretrained model.
        found: the tasks, in the order in which they are merged.
        seeds: any number.
        sizes: of splits and training.
        cache: folder of all files.
        say: receives progress.
    """

    def __init__(
        self, base: Vit, found: Mapping[str, Pool], seeds: Sequence[int], sizes: Sizes, cache: Path, say: Clock
    ) -> None:
        self._base, self._pools, self._seeds, self._sizes = base, found, seeds, sizes
        self._cache, self._say = cache, say
        self._catalogue = catalogue(tuple(found))

    def prepare(self) -> None:
        """Fine-tune and take importance, where that is not done yet."""
        for seed in self._seeds:
            laboratory = self._laboratory(seed)
            for task in self._pools:
                with deterministic(seed):
                    laboratory.preparation(task).run()
                self._say(f"seed {seed}: {task} is prepared")

    def rows(self, sections: Sequence[str]) -> list[records.Row]:
        """Run sections, one after the other for all seeds, and return their rows.

        What a section is compared with is run with it, wherever it belongs.
        """
        outcomes: dict[str, list[Outcome]] = {}
        merges: dict[str, Merge] = {}
        ids: dict[str, list[Array]] = {}
        for section in dict.fromkeys(("merging", *sections)):
            listed = self._catalogue[section]
            for seed in self._seeds:
                laboratory = self._laboratory(seed)
                for merge in listed:
                    with deterministic(seed):
                        outcomes.setdefault(merge.name, []).append(run(laboratory, merge))
                    self._say(f"seed {seed}: {merge.title} ({section}{', ' * bool(merge.of)}{' and '.join(merge.of)})")
                if section == "merging":
                    for task in self._pools:
                        ids.setdefault(task, []).append(laboratory.splits[task].test_ids)
            merges.update((merge.name, merge) for merge in listed)
        case = {"suite": SUITE, "tasks": list(self._pools), "seeds": list(self._seeds), **asdict(self._sizes)}
        common = {"op": OP, "case": case, **records.environment(), "threads": torch.get_num_threads()}
        return [common | row for row in Collection(merges, outcomes, ids).rows()]

    def _laboratory(self, seed: int) -> Laboratory:
        return Laboratory(self._base, self._pools, seed, self._sizes, self._cache)


if __name__ == "__main__":
    sys.exit(main())
