"""The command line: ``sta-kernels merge | report | verify | importance | info | demo``, one module per command.

Nothing is imported before it is needed: ``--version`` costs Python's own start-up, and a command pays for itself only.

Exit codes: 0 done; 1 the machine failed, or ``verify`` found a difference; 2 the caller's mistake; 130 and 143 stopped
by SIGINT and SIGTERM. A caller's mistake prints one message and no traceback.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from sta_kernels._version import __version__
from sta_kernels.errors import InputError, RunError

COMMANDS = {
    "merge": "merge checkpoints from disk to disk, as a recipe says",
    "report": "describe a finished merge in one HTML page",
    "verify": "check a finished merge against its manifest",
    "importance": "how much each weight of a fine-tuned CLIP image encoder matters to its task",
    "info": "which kernels serve on this machine, and why",
    "demo": "fine-tune, merge and forget real image tasks, and print the accuracies",
}
_RESUMED = {"merge": "the same command continues where it stopped"}
_EPILOG = """\
example:
  sta-kernels merge recipe.yaml merged/ --dry-run     what it would read, write and need
  sta-kernels merge recipe.yaml merged/               do it; run again after a crash, it continues
  sta-kernels report merged/                          look at it: merged-report/report.html
  sta-kernels verify merged/                          read it all again and compare

`sta-kernels COMMAND --help` has an example for each command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; None takes those of the process.

    Returns:
        The exit code. ``--help``, ``--version`` and wrong arguments leave through SystemExit, as argparse does.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name, rest = _parse(arguments)
    resumed = "" if "--dry-run" in rest else _RESUMED.get(name, "")
    with _signals() as received, _warnings():
        try:
            code = _command(name).run(rest)
            sys.stdout.flush()
            return code
        except Exception as error:
            # A signal during the import of a C extension ends as ImportError: what counts is the signal.
            return _stopped(received[0], resumed) if received else _failed(error)
        except (Terminated, KeyboardInterrupt) as error:
            return _stopped(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT, resumed)


class Terminated(BaseException):
    """SIGTERM arrived: unwinds like KeyboardInterrupt, so that locks are released and nothing half-written stays."""


def _parse(arguments: list[str]) -> tuple[str, list[str]]:
    """Split off the command; its own module parses the rest."""
    if arguments and arguments[0] in COMMANDS:
        return arguments[0], arguments[1:]
    import argparse

    from sta_kernels.cli.arguments import Parser

    parser = Parser(
        prog="sta-kernels",
        description="Merge fine-tuned checkpoints with Selective Task Arithmetic and its relatives.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"sta-kernels {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    return parser.parse_args(arguments).command, []


def _command(name: str) -> Any:
    return importlib.import_module(f"sta_kernels.cli.{name}")


def _failed(error: Exception) -> int:
    """Print what a person can act on; raise again what is a defect of ours."""
    if isinstance(error, InputError):
        return _say(str(error), 2)
    if isinstance(error, BrokenPipeError):
        # The reader of our output left (`| head`); what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, RunError | OSError | MemoryError):
        return _say(str(error) or type(error).__name__, 1)
    raise error


def _stopped(number: int, then: str = "") -> int:
    word = "interrupted" if number == signal.SIGINT else "terminated"
    return _say(f"{word}; {then}" if then else word, 128 + number)


def _say(message: str, code: int) -> int:
    print(f"sta-kernels: {printable(message)}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    """Text fit for a terminal: names and values that somebody else chose may hold what clears it, or worse."""
    lines = text.split("\n")
    if all(map(str.isprintable, lines)):
        return text
    escaped = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)
    return "\n".join(escaped)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Turn SIGTERM into an exception, as Python does SIGINT; yields the list of those that came."""
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere, signals are somebody else's
        before = {
            number: signal.signal(number, stop)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)  # nohup's stay ignored
        }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _warnings() -> Iterator[None]:
    """Print warnings as messages to a person, without the source line that raised them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        print(f"sta-kernels: warning: {printable(str(message))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
