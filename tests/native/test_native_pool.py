"""Threads: the pool survives fork, serves many callers, and leaves the floating-point mode as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from kernel_cases import MergeCase, run_merge, same_bits

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.native import NativeBackend

N = 300_001


def draw(kind: str = "plain") -> MergeCase:
    return MergeCase.draw(4, N, DType.F32, DType.F32, kind, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("generations", [1, 2])
def test_works_in_a_forked_child(generations: int) -> None:
    native, case = NativeBackend(), draw()
    expected, counts = run_merge(native, case, threads=4)  # the pool's threads exist now

    def descend(left: int) -> int:
        child = os.fork()
        if child == 0:
            out, child_counts = run_merge(native, case, threads=4)
            good = same_bits(out, expected) and child_counts == counts
            os._exit(0 if good and (left == 1 or descend(left - 1) == 0) else 1)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        return -1

    assert descend(generations) == 0
    assert same_bits(run_merge(native, case, threads=4)[0], expected)  # and in the parent still


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_another_thread_merges() -> None:
    native, case = NativeBackend(), draw()
    expected, _ = run_merge(native, case)
    stop = threading.Event()

    def keep_merging() -> None:
        while not stop.is_set():
            run_merge(native, case, threads=3)

    worker = threading.Thread(target=keep_merging)
    worker.start()
    try:
        children = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if same_bits(run_merge(native, case, threads=3)[0], expected) else 1)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    finally:
        stop.set()
        worker.join()
    assert codes == [0] * 10


def test_many_callers_at_once() -> None:
    native, case = NativeBackend(), draw("ties")
    expected, counts = run_merge(native, case)
    wrong = []

    def call(threads: int) -> None:
        for _ in range(5):
            out, found = run_merge(native, case, threads=threads)
            if not same_bits(out, expected) or found != counts:
                wrong.append(threads)

    callers = [threading.Thread(target=call, args=(1 + i % 5,)) for i in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_callers_flush_to_zero_changes_nothing_and_stays(threads: int) -> None:
    torch = pytest.importorskip("torch")
    native, case = NativeBackend(), draw("edges")
    expected, counts = run_merge(native, case, threads=threads)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        found, found_counts = run_merge(native, case, threads=threads)
        still_flushing = (torch.tensor([1e-40]) * 1.0 == 0).item()
    finally:
        torch.set_flush_denormal(False)
    assert same_bits(found, expected)
    assert found_counts == counts
    assert still_flushing


def test_the_interpreter_lock_is_released() -> None:
    native, case = NativeBackend(), draw()
    ticks, stop = [], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    ticker = threading.Thread(target=tick)
    big = MergeCase.draw(8, 4_000_000, DType.F32, DType.F32, "plain", 5)
    run_merge(native, case)
    ticker.start()
    start = time.perf_counter()
    run_merge(native, big)
    stop.set()
    ticker.join()
    during = [t for t in ticks if t > start]
    assert len(during) > 3, "another thread ran while the kernel did"


def test_refuses_what_it_cannot_run() -> None:
    foreign = NativeBackend("neon" if os.uname().machine == "x86_64" else "avx2")
    with pytest.raises(RuntimeError, match="instruction set"):
        run_merge(foreign, draw())
    case = draw()
    case.k = 5
    native = NativeBackend()
    with pytest.raises(RuntimeError, match="sta_merge: an argument is outside its range"):
        run_merge(native, case)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits memory in a child of its own")
def test_running_out_of_memory_is_an_exception() -> None:
    program = """
import resource, numpy as np
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.native import NativeBackend
native, one = NativeBackend(), ImportanceSource("lp", Buffer.from_numpy(np.ones(1, np.float32)))
sources = [one] * 1_000_000
minmax = np.zeros((len(sources), 2), np.float32)
native.ranges(sources[:10], minmax, None, threads=1)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + (150 << 20),) * 2)
try:
    native.ranges(sources, minmax, None, threads=1)
except MemoryError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "refused", done.stderr
