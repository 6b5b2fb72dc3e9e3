"""One recipe: the floor, the command's start-up, the merge, and mergekit, in turn."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import processes, records
from benchmarks.disk.cache import drop
from benchmarks.disk.floor import Floor
from benchmarks.disk.models import WEIGHTS, Family
from benchmarks.disk.recipes import RECIPES, Recipe

MANIFEST = "sta_kernels_manifest.json"
CHUNKS = tuple(1 << power for power in (16, 17, 18, 19, 20, 22))
TRIALS = 5


@dataclass(frozen=True)
class Bench:
    """What contests have in common.

    Attributes:
        storage: "tmpfs", where start-up is subtracted from the ratio, or "disk": inputs are dropped from the page cache
            before each run, and the floor syncs its output.
        family: the checkpoints.
        megabytes: nominal size of each.
        scratch: a folder beside them, for recipe and outputs.
        floor: the program.
        rounds: that are timed.
        options: more arguments of the merge.
        cache: megabytes of memory that are left for it and for processes, on a disk; None: all there are.
        mergekit: Python that has it; None to leave it out.
        mergekit_rounds: fewer: it takes minutes.
    """

    storage: str
    family: Family
    megabytes: int
    scratch: Path
    floor: Floor
    rounds: int
    options: Sequence[str] = ()
    cache: int | None = None
    mergekit: str | None = None
    mergekit_rounds: int = 3

    @property
    def cold(self) -> bool:
        """Whether nothing of the inputs is in memory when a run begins."""
        return self.storage == "disk"

    def fitted(self) -> Bench:
        """The same with the chunk that makes the floor fastest, for five models as its input."""
        size = (self.family.base / WEIGHTS).stat().st_size
        tried = [replace(self, floor=replace(self.floor, chunk=chunk)) for chunk in CHUNKS]
        runs = [_Runs(bench, RECIPES["task_arithmetic"]) for bench in tried]
        times = [[run.floor(size) for run in runs] for _ in range(TRIALS)]
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        return tried[medians.index(min(medians))]

    def row(self, name: str) -> records.Row:
        """Case and figures of a recipe.

        Raises:
            subprocess.CalledProcessError: a command failed; its message is on the terminal.
            AssertionError: the rounds of the merge differ in their bytes, the native core did not serve them, or a
                dropped file is still cached.
        """
        run = _Runs(self, RECIPES[name])
        size = run.prepare()
        times: dict[str, list[float]] = {"floor": [], "merge": [], "startup": [], "mergekit": []}
        for index in range(self.rounds):
            times["floor"].append(run.floor(size))
            times["startup"].append(run.startup())
            times["merge"].append(run.merge())
            if run.rivals and index < self.mergekit_rounds:
                times["mergekit"].append(run.mergekit())
        row: records.Row = {
            "case": self.case(name),
            "rounds": self.rounds,
            "bytes": {"read": sum(path.stat().st_size for path in run.inputs), "written": size},
            "seconds": quantiles(times["merge"]),
            "startup": quantiles(times["startup"]),
            "floor": quantiles(times["floor"]),
            "floor_chunk": self.floor.chunk,
            "ratio": ratios(times, subtract=not self.cold),
            "rss_anon": max(run.peaks["merge"]),
            "digest": run.digest,
        }
        if times["mergekit"]:
            pairs = zip(times["mergekit"], times["merge"], strict=False)  # the rounds that both ran in
            row["mergekit"] = {
                "rounds": len(times["mergekit"]),
                "seconds": quantiles(times["mergekit"]),
                "speedup": quantiles([theirs / ours for theirs, ours in pairs]),
                "rss_anon": max(run.peaks["mergekit"]),
            }
        return row

    def thread_row(self, name: str) -> records.Row:
        """How much faster a recipe is on all threads than on one, start-up subtracted; raises as :meth:`row`."""
        run = _Runs(self, RECIPES[name])
        run.prepare()
        started, one, many = [], [], []
        for _ in range(self.rounds):
            started.append(run.startup())
            one.append(run.merge(threads=1))
            many.append(run.merge())
        begun = statistics.median(started)
        return {
            "case": self.case(name),
            "rounds": self.rounds,
            "seconds": {"one": quantiles(one), "all": quantiles(many)},
            "startup": quantiles(started),
            "speedup": quantiles([(a - begun) / (b - begun) for a, b in zip(one, many, strict=True)]),
        }

    def case(self, name: str) -> dict[str, Any]:
        """What tells its row from others."""
        case = {
            "recipe": name,
            "storage": self.storage,
            "models": len(self.family.models),
            "megabytes": self.megabytes,
            "threads": self.floor.threads,
            "options": list(self.options),
        }
        return case | {"cache": self.cache} if self.cold else case


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p20, p50 and p80."""
    if len(values) == 1:
        return dict.fromkeys(("p20", "p50", "p80"), records.rounded(values[0]))
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return {"p20": records.rounded(cuts[1]), "p50": records.rounded(cuts[4]), "p80": records.rounded(cuts[7])}


def ratios(times: Mapping[str, Sequence[float]], *, subtract: bool) -> dict[str, float]:
    """Merge over floor, round by round; where start-up is subtracted, its median: it hardly varies with the storage."""
    started = statistics.median(times["startup"]) if subtract else 0.0
    return quantiles([(merge - started) / floor for merge, floor in zip(times["merge"], times["floor"], strict=True)])


@dataclass
class _Runs:
    """The contenders."""

    bench: Bench
    recipe: Recipe
    digest: str | None = None
    peaks: dict[str, list[int]] = field(default_factory=lambda: {"merge": [], "mergekit": []})

    def __post_init__(self) -> None:
        self.inputs = self.recipe.inputs(self.bench.family)
        self.rivals = self.bench.mergekit is not None and self.recipe.speedup is not None
        self._path = self.bench.scratch / "recipe.yaml"
        self._out = self.bench.scratch / "out"

    def prepare(self) -> int:
        """Write the recipe, run what is to be timed once, and return the size of the weights."""
        self.recipe.write(self.bench.family, self._path)
        size = self._outcome(self._command())
        self.startup()
        self.floor(size)
        self.peaks["merge"].clear()
        return size

    def floor(self, size: int) -> float:
        return self._afresh(lambda: self.bench.floor.run(self.inputs, self._out / "floor", size, sync=self.bench.cold))

    def startup(self) -> float:
        return processes.watch([*self._command(), "--dry-run"], stdout=subprocess.DEVNULL).seconds

    def merge(self, threads: int | None = None) -> float:
        return self._afresh(lambda: self._watched("merge", self._command(threads)))

    def mergekit(self) -> float:
        """The command of its environment; there is no other way in that needs less of it."""
        assert self.bench.mergekit is not None
        program = Path(self.bench.mergekit).with_name("mergekit-yaml")
        command = [str(program), str(self._path), str(self._out), "--quiet", "--no-copy-tokenizer"]
        command += ["--num-threads", str(self.bench.floor.threads)]
        return self._afresh(lambda: self._watched("mergekit", command))

    def _command(self, threads: int | None = None) -> list[str]:
        command = [*records.program(), "merge", str(self._path), str(self._out), "--quiet"]
        return [*command, "--threads", str(threads or self.bench.floor.threads), *self.bench.options]

    def _watched(self, name: str, command: Sequence[str]) -> float:
        watched = processes.watch(command)
        self.peaks[name].append(watched.rss_anon)
        if name == "merge":
            self._same_bytes()
        return watched.seconds

    def _afresh(self, run: Callable[[], float]) -> float:
        """Run with an empty output folder, and, where it is to be cold, nothing of the inputs in memory."""
        self._out.mkdir()
        try:
            if self.bench.cold:
                for path in self.inputs:
                    drop(path)
            return run()
        finally:
            shutil.rmtree(self._out)

    def _outcome(self, command: Sequence[str]) -> int:
        self._out.mkdir()
        try:
            self._watched("merge", command)
            return sum(path.stat().st_size for path in self._out.glob("*.safetensors"))
        finally:
            shutil.rmtree(self._out)

    def _same_bytes(self) -> None:
        manifest = json.loads((self._out / MANIFEST).read_text())
        assert manifest["served_by"]["backend"] == "native", manifest["served_by"]
        files = manifest["files"]
        digest = "-".join(files[name]["digest"] for name in sorted(files) if name.endswith(".safetensors"))
        assert self.digest in (None, digest), f"one merge gave {self.digest}, the next {digest}"
        self.digest = digest
