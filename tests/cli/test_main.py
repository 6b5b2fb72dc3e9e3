"""Dispatch, exit codes, messages and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from sta_kernels import cli
from sta_kernels._version import __version__
from sta_kernels.cli import info
from sta_kernels.errors import InputError, RunError

ROOT = Path(cli.__file__).parents[2]


def environment() -> dict[str, str]:
    """Finds the package that is tested even where it is not installed."""
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}


def start(*arguments: str) -> subprocess.Popen[str]:
    def default_signals() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test runner in the background ignores it

    return subprocess.Popen(
        [sys.executable, "-m", "sta_kernels", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=default_signals,
    )


@pytest.mark.parametrize(
    ("arguments", "code", "out"),
    [
        (["--version"], 0, f"sta-kernels {__version__}\n"),
        (["--help"], 0, "sta-kernels verify merged/"),
        (["merge", "--help"], 0, "merge_method: sta"),
        (["verify", "--help"], 0, "sta-kernels verify merged/"),
        (["info", "--help"], 0, "sta-kernels info"),
    ],
)
def test_version_and_help(arguments: list[str], code: int, out: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == code
    assert out in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["mrge", "a", "b"], "invalid choice: 'mrge'"),
        (["--quiet", "merge"], "unrecognized arguments: --quiet; see `sta-kernels --help`"),
        (["merge", "r.yaml"], "the following arguments are required: OUT"),
        (["merge", "r.yaml", "out", "--threads", "0"], "expected a whole number from 1, got '0'"),
        (["merge", "r.yaml", "out", "--threads", "two"], "expected a whole number from 1, got 'two'"),
        (["merge", "r.yaml", "out", "--json"], "--json goes with --dry-run"),
        (["verify"], "the following arguments are required: OUT"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert err.endswith("--help`\n")


def test_a_merge_that_is_interrupted_says_how_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def stop(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("sta_kernels.cli.merge.run", stop)
    assert cli.main(["merge"]) == 130
    assert "interrupted; the same command continues where it stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("layer.weight: shape [3], base has [4]"), 2, "layer.weight: shape [3], base has [4]"),
        (RunError("disk full"), 1, "disk full"),
        (OSError(28, "No space left on device", "out/x"), 1, "No space left on device"),
        (MemoryError(), 1, "MemoryError"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (cli.Terminated(), 143, "terminated"),
    ],
)
def test_failures_become_exit_codes_and_one_message(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert cli.main(["info"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sta-kernels: ")
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def fail(argv: list[str]) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(info, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_warnings_are_one_line_without_source(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def warn(argv: list[str]) -> int:
        warnings.warn("only one model", stacklevel=1)
        return 0

    monkeypatch.setattr(info, "run", warn)
    before = warnings.showwarning
    assert cli.main(["info"]) == 0
    assert capsys.readouterr().err == "sta-kernels: warning: only one model\n"
    assert warnings.showwarning is before


def test_the_callers_signal_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    cli.main(["info"])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_an_import_turned_into_another_error_still_counts(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def swallow(argv: list[str]) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except BaseException as error:
            raise ImportError("a C extension failed") from error
        return 0

    monkeypatch.setattr(info, "run", swallow)
    # A test runner in the background ignores SIGINT.
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        assert cli.main(["info"]) == code
    finally:
        signal.signal(number, before)
    assert "Traceback" not in capsys.readouterr().err


def test_ignored_signals_stay_ignored(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(info, "run", lambda argv: seen.append(signal.getsignal(signal.SIGTERM)) or 0)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        cli.main(["info"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIG_IGN]


def test_other_threads_may_run_commands(capsys: pytest.CaptureFixture[str]):
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["info"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe to hold the command at a known place")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_without_a_traceback(number: signal.Signals, code: int, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    os.mkfifo(recipe)
    process = start("merge", str(recipe), str(tmp_path / "out"))
    writer = None
    try:
        while writer is None and process.poll() is None:
            try:
                writer = os.open(recipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                time.sleep(0.01)
        time.sleep(0.5)  # until it reads: before Python 3.11, a signal between open and read waits for the read to end
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        if writer is not None:
            os.close(writer)
    assert writer is not None
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_reader_that_leaves_early_is_no_traceback():
    process = start("info")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(20) == 1
    assert err == ""


LIGHT = {"numpy", "yaml", "tqdm", "torch", "triton", "xxhash", "safetensors"}


@pytest.mark.parametrize(
    ("call", "absent"),
    [
        ("import sta_kernels", LIGHT | {"argparse"}),
        ("from sta_kernels.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass", LIGHT),
        ("from sta_kernels.cli import main\ntry: main(['merge', '--help'])\nexcept SystemExit: pass", LIGHT),
        ("from sta_kernels.cli import main\nmain(['info'])", {"torch", "triton", "yaml", "tqdm"}),
    ],
)
def test_nothing_is_imported_before_it_is_needed(call: str, absent: set[str]):
    code = f"import sys\n{call}\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    loaded = done.stdout.rpartition("LOADED")[2].split()
    assert "sta_kernels" in loaded
    assert absent.isdisjoint(loaded)


def test_version_starts_within_a_quarter_of_a_second():
    """The bar is for a quiet machine, so the best of a few tries counts."""
    best = min(_seconds("--version") for _ in range(5))
    assert best < 0.25


def _seconds(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "sta_kernels", *arguments], env=environment(), check=True, capture_output=True
    )
    return time.perf_counter() - began
