"""The threat model of SECURITY.md, executed: one test per attack, through the command line."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks.folders import INDICES, LINKS
from attacks.headers import HEADERS, Header
from attacks.observing import Observation, observe, watched
from attacks.outputs import OUTPUTS
from attacks.pickles import PICKLES
from attacks.recipes import NAMES, RECIPES
from attacks.side_files import ADAPTERS, SIDE_FILES
from attacks.values import IMPORTANCES, VALUES
from attacks.victim import Attack, Victim


def planted(header: Header) -> Attack:
    """A hostile file in the place of the first model's weights."""

    def plant(victim: Victim) -> None:
        (victim.model / "model.safetensors").write_bytes(header.content)

    return Attack("safetensors header", header.name, plant, header.message)


ATTACKS = [
    *map(planted, HEADERS),
    *INDICES,
    *LINKS,
    *PICKLES,
    *ADAPTERS,
    *SIDE_FILES,
    *RECIPES,
    *NAMES,
    *VALUES,
    *IMPORTANCES,
    *OUTPUTS,
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.family}: {attack.name}")
def test_attack(
    attack: Attack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    observations: list[Observation],
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    victim = Victim(tmp_path)
    command = attack.plant(victim) or victim.command
    observations.append(observe(attack, victim, command, capsys.readouterr))


def test_the_victim_is_well_without_an_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    victim = Victim(tmp_path)
    nothing = Attack("none", "nothing", lambda victim: None, "tensors", 0)
    observe(nothing, victim, victim.command, capsys.readouterr)
    assert "warning" not in capsys.readouterr().err


def test_every_attack_has_a_name_of_its_own() -> None:
    names = [(attack.family, attack.name) for attack in ATTACKS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("harm", [lambda: os.system("true"), lambda: socket.getaddrinfo("localhost", 1)])
def test_the_watch_sees_what_it_must(harm: Callable[[], object]) -> None:
    with watched() as started:
        harm()
    assert len(started) == 1
