"""The command line: ``sta-kernels merge | verify | info | demo``, one module per command.

Nothing is imported before it is needed: ``--version`` costs Python's own start-up, and a command pays for itself only.

Exit codes: 0 done; 1 the machine failed, or ``verify`` found a difference; 2 the caller's mistake; 130 and 143 stopped
by SIGINT and SIGTERM. A caller's mistake prints one message and no traceback.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from sta_kernels._version import __version__
from sta_kernels.errors import InputError, RunError

COMMANDS = {
    "merge": "merge checkpoints from disk to disk, as a recipe says",
    "verify": "check a finished merge against its manifest",
    "info": "which kernels serve on this machine, and why",
    "demo": "fine-tune, merge and forget real image tasks, and print the accuracies",
}
_EPILOG = """\
example:
  sta-kernels merge recipe.yaml merged/ --dry-run     what it would read, write and need
  sta-kernels merge recipe.yaml merged/               do it; run again after a crash, it continues
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
    try:
        with _signals(), _warnings():
            code = _command(name).run(rest)
            sys.stdout.flush()
            return code
    except InputError as error:
        return _fail(str(error), 2)
    except (RunError, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output left (`| head`); what is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return _fail(str(error) or type(error).__name__, 1)
    except Terminated:
        return _fail("terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)


class Terminated(BaseException):
    """SIGTERM arrived: unwinds like KeyboardInterrupt, so that locks are released and nothing half-written stays."""


def _parse(arguments: list[str]) -> tuple[str, list[str]]:
    """Split off the command; its own module parses the rest."""
    if arguments and arguments[0] in COMMANDS:
        return arguments[0], arguments[1:]
    import argparse

    parser = argparse.ArgumentParser(
        prog="sta-kernels",
        description="Merge fine-tuned checkpoints with Selective Task Arithmetic and its relatives.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sta-kernels {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    return parser.parse_args(arguments).command, []


def _command(name: str) -> Any:
    return importlib.import_module(f"sta_kernels.cli.{name}")


def _fail(message: str, code: int) -> int:
    print(f"sta-kernels: {message}", file=sys.stderr)
    return code


@contextmanager
def _signals() -> Iterator[None]:
    def terminate(number: int, frame: Any) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not the main thread: signals are somebody else's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        print(f"sta-kernels: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
