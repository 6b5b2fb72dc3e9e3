"""Runs an attack as its victim would, and sees what comes of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from attacks.victim import Attack, Victim

from sta_kernels.cli import main
from sta_kernels.engine.journal import JOURNAL_NAME
from sta_kernels.engine.lock import LOCK_NAME

_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect",
              "socket.getaddrinfo", "ctypes.dlopen:libc", "webbrowser.open")  # fmt: skip
_SHOWN = 160


@dataclass(frozen=True)
class Observation:
    """What came of an attack.

    Attributes:
        family: of the attack.
        name: of the attack.
        expected: in words.
        observed: exit code, and what was printed of it, paths shortened.
    """

    family: str
    name: str
    expected: str
    observed: str

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


OBSERVED = pytest.StashKey[list[Observation]]()
_EXPECTED = {0: "harmless: merged, and said where it matters", 1: "refused or reported", 2: "refused"}
_seen: list[str] | None = None


def _hook(event: str, arguments: Any) -> None:
    if _seen is not None and event in _FORBIDDEN:
        _seen.append(f"{event} {arguments!r}")


sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Programs that are started, and addresses that are asked for, as the interpreter sees them."""
    global _seen
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


def observe(attack: Attack, victim: Victim, command: Sequence[str], printed: Any) -> Observation:
    """Run the command and hold what it did against what must hold after every attack."""
    with watched() as started:
        code = main(list(command))
    output = printed()
    said = f"{output.err}{output.out}"
    assert started == [], "code of the attacker's was run, or the network was asked"
    assert not victim.canary.exists(), "code of the attacker's was run"
    assert code == attack.code, said
    assert re.search(attack.message, said, re.DOTALL), said
    assert all(line.isprintable() for line in said.split("\n")), ascii(said)
    assert attack.unharmed(victim), said
    if code != 0 and victim.out.is_dir() and not victim.out.is_symlink() and command[0] == "merge":
        names = {path.name for path in victim.out.iterdir() if not path.is_symlink()}
        assert not {name for name in names if name.endswith(".safetensors")}, names
        assert LOCK_NAME not in names
    if code == 0:
        assert not (victim.out / JOURNAL_NAME).exists()
    return Observation(attack.family, attack.name, _EXPECTED[attack.code], f"{code}: {_shown(attack, said, victim)}")


def _shown(attack: Attack, said: str, victim: Victim) -> str:
    """The line that says it, without the folder of the test."""
    lines = [line for line in said.splitlines() if re.search(attack.message, line)] or said.splitlines()
    line = lines[0].removeprefix("sta-kernels: ").replace(f"{victim.folder}/", "").replace(str(Path.cwd()), ".")
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
