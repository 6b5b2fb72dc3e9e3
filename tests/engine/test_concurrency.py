"""Many merges at once, in threads, processes and forked children, and in surroundings that give little."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sta_kernels.checkpoint import hash_file
from sta_kernels.engine import merge_checkpoints, verify
from sta_kernels.engine.admission import Admission

METHODS = ("sta", "ties", "task_arithmetic", "model_stock")
CODE = """
import json, sys
from sta_kernels.engine import merge_checkpoints
merge_checkpoints(json.loads(sys.argv[1]), sys.argv[2])
"""


def digest(out: Path) -> bytes:
    assert verify(out) == []
    return hash_file(out / "model.safetensors")[1]


def alone(
    recipe: dict[str, Any], out: Path, wrap: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """A merge in a process of its own."""
    command = [*wrap, sys.executable, "-c", CODE, json.dumps(recipe), str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture(scope="module")
def expected(mixed_models: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What each method gives by itself."""
    folder = tmp_path_factory.mktemp("alone")
    for method in METHODS:
        merge_checkpoints(mixed_models.recipe(method), folder / method)
    return {method: digest(folder / method) for method in METHODS}


def test_sixteen_in_one_process(mixed_models: Any, expected: dict[str, bytes], tmp_path: Path) -> None:
    def merge(i: int) -> bytes:
        merge_checkpoints(mixed_models.recipe(METHODS[i % 4]), tmp_path / str(i), threads=2)
        return digest(tmp_path / str(i))

    with ThreadPoolExecutor(16) as pool:
        digests = list(pool.map(merge, range(16)))
    assert digests == [expected[METHODS[i % 4]] for i in range(16)]


def test_eight_processes(mixed_models: Any, expected: dict[str, bytes], tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda i: alone(mixed_models.recipe("sta"), tmp_path / str(i)), range(8)))
    assert [each.returncode for each in done] == [0] * 8, done
    assert {digest(tmp_path / str(i)) for i in range(8)} == {expected["sta"]}


def test_the_limit_is_kept_together(mixed_models: Any, tmp_path: Path) -> None:
    """Of a limit that holds one merge, sixteen at once hold no more; without admission they would."""
    code = """
import json, sys, threading
from concurrent.futures import ThreadPoolExecutor
from sta_kernels.engine import memory, merge_checkpoints
recipe, out = json.loads(sys.argv[1]), sys.argv[2]
most, ended = 0, threading.Event()
def watch():
    global most
    while not ended.wait(0.002):
        most = max(most, memory.anonymous_bytes())
watcher = threading.Thread(target=watch)
watcher.start()
with ThreadPoolExecutor(16) as pool:
    list(pool.map(lambda i: merge_checkpoints(recipe, f"{out}/{i}", threads=2, max_memory="230MB"), range(16)))
ended.set(); watcher.join()
print(most)
"""
    command = [sys.executable, "-c", code, json.dumps(mixed_models.recipe("sta")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 230_000_000


def test_admission() -> None:
    admission, order = Admission(), []
    assert admission.baseline(100) == 100
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with admission.admitted(100, 50, 200):
            inside.set()
            leave.wait(10)
            order.append("first")

    def second() -> None:
        with admission.admitted(100, 60, 300):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    assert admission.baseline(130) == 100  # the merge that runs has not taken all it may
    assert admission.baseline(170) == 120
    with admission.admitted(100, 50, 200):  # together they fit
        pass
    threads[1].start()
    threads[1].join(0.1)
    assert threads[1].is_alive()  # 100 + 50 + 60 are more than the 200 that the first was promised
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


def test_a_merge_within_a_merge_does_not_wait_for_it() -> None:
    admission = Admission()
    with admission.admitted(100, 50, 200), admission.admitted(100, 90, 200):
        pass


def test_children_that_are_forked_meanwhile_merge_too(
    mixed_models: Any, expected: dict[str, bytes], tmp_path: Path
) -> None:
    code = """
import json, os, sys, threading, time, warnings
from sta_kernels.engine import merge_checkpoints
warnings.simplefilter("ignore")
recipe, out = json.loads(sys.argv[1]), sys.argv[2]
merge_checkpoints(recipe, f"{out}/first")  # a thread that still imports leaves its child Python's own import lock
ended = threading.Event()
def merge_on(name):
    i = 0
    while not ended.is_set():
        merge_checkpoints(recipe, f"{out}/{name}-{i}", threads=2)
        i += 1
threads = [threading.Thread(target=merge_on, args=(name,)) for name in "a"]
for thread in threads: thread.start()
children = []
for i in range(6):
    time.sleep(0.01)
    child = os.fork()
    if not child:
        merge_checkpoints(recipe, f"{out}/child{i}", threads=2)
        os._exit(0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
ended.set()
for thread in threads: thread.join()
assert codes == [0] * 6, codes
"""
    command = [sys.executable, "-c", code, json.dumps(mixed_models.recipe("ties")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {digest(tmp_path / f"child{i}") for i in range(6)} == {expected["ties"]}


def in_own_mounts(*commands: str) -> list[str]:
    """A wrapper that runs commands in a mount namespace first."""
    return ["unshare", "--mount", "sh", "-ec", "; ".join((*commands, 'exec "$@"')), "sh"]


def needs_mounts() -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run([*in_own_mounts("true"), "true"], capture_output=True).returncode
    ):
        pytest.skip("mount namespaces are not allowed here")


def test_a_read_only_input_file_system(own: Any, expected: dict[str, bytes], tmp_path: Path) -> None:
    needs_mounts()
    recipe, folder = own
    mounts = in_own_mounts(
        f"mount --bind {folder} {folder}", f"mount -o remount,ro,bind {folder}", f"! touch {folder}/x"
    )
    done = alone(recipe, tmp_path / "out", mounts)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == expected["sta"]


def test_without_shared_memory(mixed_models: Any, expected: dict[str, bytes], tmp_path: Path) -> None:
    needs_mounts()
    hidden = tmp_path / "empty"
    hidden.mkdir()
    mounts = in_own_mounts(f"mount --bind {hidden} /dev/shm", "mount -o remount,ro,bind /dev/shm", "! touch /dev/shm/x")
    done = alone(mixed_models.recipe("sta"), tmp_path / "out", mounts)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == expected["sta"]


def limited(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


LIMITS = {
    "address space": (resource.RLIMIT_AS, 1_500_000_000),
    "open files": (resource.RLIMIT_NOFILE, 40),
    "data": (resource.RLIMIT_DATA, 700_000_000),
}


@pytest.mark.parametrize("name", LIMITS)
def test_under_limits(mixed_models: Any, expected: dict[str, bytes], tmp_path: Path, name: str) -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # which takes address space per thread
    done = alone(mixed_models.recipe("sta"), tmp_path / "out", preexec_fn=limited(*LIMITS[name]), env=environment)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == expected["sta"]


def test_in_a_memory_cgroup(mixed_models: Any, expected: dict[str, bytes], tmp_path: Path) -> None:
    """With less memory than the default limit; what is asked for then gives way."""
    group = Path(f"/sys/fs/cgroup/sta-kernels-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        if not (group / "memory.max").exists():
            pytest.skip("the memory controller is not handed down")
        (group / "memory.max").write_text("300000000")
        enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
        done = alone(mixed_models.recipe("sta"), tmp_path / "out", enter)
        assert done.returncode == 0, done.stderr
        assert digest(tmp_path / "out") == expected["sta"]
    finally:
        group.rmdir()
