"""The engine's parts by themselves: digests of blocks, tiles that remain, the journal, the scheduler, the lock."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sta_kernels.checkpoint import block_digest
from sta_kernels.engine import blocks
from sta_kernels.engine.blocks import BlockDigests
from sta_kernels.engine.journal import Journal, read_journal
from sta_kernels.engine.lock import locked
from sta_kernels.engine.memory import PAGE, Arena
from sta_kernels.engine.runs import Checks, subtract
from sta_kernels.engine.scheduler import run_activities
from sta_kernels.errors import InputError

BLOCK = 64
DATA = bytes(range(251)) * 3


def read_data(view: memoryview, offset: int) -> None:
    view[:] = DATA[offset : offset + len(view)]


def apart(digests: bytes) -> list[bytes]:
    return [digests[i : i + 16] for i in range(0, len(digests), 16)]


@given(st.lists(st.integers(0, len(DATA)), max_size=20), st.randoms(use_true_random=False), st.booleans())
@settings(deadline=None)
def test_digests_do_not_depend_on_the_order_of_pieces(cuts: list[int], shuffler: Any, drop: bool) -> None:
    """In any order, cut anywhere, and with a piece that never came but is read at the end."""
    original, blocks.BLOCK = blocks.BLOCK, BLOCK
    try:
        told: dict[int, bytes] = {}
        digests = BlockDigests(len(DATA), read_data, lambda first, some: told.update(enumerate(apart(some), first)))
        edges = sorted({0, *cuts, len(DATA)})
        pieces = list(itertools.pairwise(edges))
        shuffler.shuffle(pieces)
        for start, stop in pieces[1:] if drop else pieces:
            if shuffler.random() < 0.5:
                digests.add(start, memoryview(DATA)[start:stop])
            else:  # digested elsewhere, but for what the piece holds only in part
                first, last = -(-start // BLOCK), stop // BLOCK
                whole = [block_digest(DATA[index * BLOCK : (index + 1) * BLOCK]) for index in range(first, last)]
                digests.passed(start, stop, first, b"".join(whole))
        assert bool(digests.incomplete()) == drop
        for index in digests.incomplete():
            digests.complete(index)
        want = [block_digest(DATA[start : start + BLOCK]) for start in range(0, len(DATA), BLOCK)]
        assert digests.digests() == want
        assert told == dict(enumerate(want))
    finally:
        blocks.BLOCK = original


def test_digests_of_nothing() -> None:
    digests = BlockDigests(0, read_data)
    assert digests.incomplete() == []
    assert digests.digests() == []


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12))
def test_what_remains_and_what_is_kept_cover_the_range_once(size: int, parts: list[tuple[int, int]]) -> None:
    done = [(start, start + length, (i,)) for i, (start, length) in enumerate(parts)]
    remaining, kept = subtract((0, size), done)
    covered = [position for start, stop in remaining for position in range(start, stop)]
    for (i,) in kept:
        covered += range(done[i][0], done[i][1])
    assert sorted(covered) == list(range(size))


def test_journal_reads_back_up_to_where_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert read_journal(path) is None
    journal = Journal(path, "abc")
    journal.blocks(1, 2, bytes(range(16)) + bytes(16))
    journal.tile(3, 0, 4096, (7, 8))
    journal.differs(1)
    journal.close(remove=False)
    whole = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(b'garbage\n{"publishing": true}\n{"tile"')
    records = read_journal(path)
    assert records is not None
    assert records.identity == "abc"
    assert records.blocks == {1: {2: bytes(range(16)), 3: bytes(16)}}
    assert records.tiles == {3: [(0, 4096, (7, 8))]}
    assert records.differing == {1}
    assert not records.publishing
    assert records.length == whole
    journal = Journal(path, "abc", keep=records.length)
    journal.publishing()
    journal.close(remove=False)
    again = read_journal(path)
    assert again is not None
    assert again.publishing
    assert again.tiles == records.tiles
    path.write_bytes(b"")
    assert read_journal(path) is None


class Stages:
    """Three stages of tasks; a stage starts when the one before is settled."""

    def __init__(self, log: list[Any], lock: threading.Lock) -> None:
        self._log, self._lock = log, lock
        self._stage, self._given, self._settled = 0, 0, 0

    def take(self) -> tuple[int, int] | None:
        if self._given == 5:
            return None
        self._given += 1
        return self._stage, self._given

    def perform(self, task: tuple[int, int], arena: Arena) -> int:
        with self._lock:
            self._log.append(task)
        return 1

    def settle(self, task: tuple[int, int]) -> bool:
        self._settled += 1
        if self._settled == 5:
            self._stage, self._given, self._settled = self._stage + 1, 0, 0
        return self._stage == 3


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_scheduler_keeps_stages_apart_and_loses_nothing(threads: int) -> None:
    lock = threading.Lock()
    logs: list[list[Any]] = [[] for _ in range(9)]
    seen: list[int] = []
    run_activities([Stages(log, lock) for log in logs], threads, partial(Arena, PAGE), seen.append)
    for log in logs:
        assert sorted(log) == [(stage, i) for stage in range(3) for i in range(1, 6)]
        assert [stage for stage, _ in log] == sorted(stage for stage, _ in log)
    assert seen[-1] == 9 * 15


def test_an_error_in_a_worker_is_raised_by_the_caller_and_stops_the_others() -> None:
    done: list[int] = []

    def work(task: int) -> int:
        if task == 3:
            raise InputError("three")
        done.append(task)
        return 0

    with pytest.raises(InputError, match="three"):
        run_activities([Checks(range(10_000), work)], 2, partial(Arena, PAGE))
    assert len(done) < 10_000
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sta-merge")]


def test_lock_keeps_out_threads_and_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom sta_kernels.engine.lock import locked\n"
    hold = code + "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    command = [sys.executable, "-c", hold, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another merge"), locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path), pytest.raises(InputError, match="another merge"), locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_workers_end_before_a_signal_goes_on_however_often_it_comes() -> None:
    """A thread that outlives the interpreter's end takes the process down."""
    ends: list[str] = []

    def slow(task: Any) -> int:
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.05)  # not before it runs, however busy the machine
        time.sleep(0.5)
        ends.append(task)
        return 1

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    ticks: list[int] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            run_activities([Checks(["one", "two"], slow)], 1, partial(Arena, PAGE), ticks.append)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ends == ["one"]
    assert ticks[0] == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sta-merge")]
