"""Every example that a help text gives is taken by the parser that prints it."""

from __future__ import annotations

import argparse
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from sta_kernels import cli
from sta_kernels.recipe import Recipe

PARSERS = {
    "merge": "cli.merge",
    "report": "cli.report",
    "verify": "cli.verify",
    "importance": "cli.importance",
    "info": "cli.info",
    "demo": "demo.__main__",
}


def parser_of(command: str) -> argparse.ArgumentParser:
    return import_module(f"sta_kernels.{PARSERS[command]}").parser()


def help_of(command: str | None, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        cli.main([*([command] if command else []), "--help"])
    return capsys.readouterr().out


def examples(text: str) -> list[list[str]]:
    """Arguments of all command lines in a help text's examples, without a trailing remark."""
    lines = (line.strip() for line in text.rpartition("example:")[2].splitlines())
    return [shlex.split(line.split("   ")[0])[1:] for line in lines if line.startswith("sta-kernels ")]


def test_every_command_has_its_parser_here():
    assert set(PARSERS) == set(cli.COMMANDS)


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_examples_parse(command: str | None, capsys: pytest.CaptureFixture[str]):
    found = examples(help_of(command, capsys))
    assert found
    for name, *arguments in found:
        if name in cli.COMMANDS:
            parser_of(name).parse_args(arguments)
        assert name == command or command is None


def test_all_commands_are_listed(capsys: pytest.CaptureFixture[str]):
    text = help_of(None, capsys)
    assert all(f"\n    {name} " in text for name in cli.COMMANDS)


def test_the_recipe_in_the_help_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for folder in ("vit", "vit-mnist", "vit-svhn"):
        Path(folder).mkdir()
        Path(folder, "importance.safetensors").touch()
    lines = help_of("merge", capsys).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("merge_method:"))
    stop = next(i for i, line in enumerate(lines) if line.strip().startswith("parameters: {p:"))
    recipe = Recipe.parse("\n".join(lines[start : stop + 1]))
    assert len(recipe.models) == 2
    assert recipe.settings("x").shared["p"] == 0.7
