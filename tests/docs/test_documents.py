"""The documents say what is so: examples run, recipes load, tables, paths and commands are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sta_kernels import Recipe, methods
from sta_kernels.cli import COMMANDS, main
from sta_kernels.methods.base import REQUIRED, Parameter

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ALL = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "python")], ids=lambda path: path.name)
def test_python_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(document, "python"):
        exec(compile(block, document.name, "exec"), names)
    assert "sk" in names


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d, "yaml")], ids=lambda path: path.name)
def test_recipes_load(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(document, "yaml"):
        recipe = yaml.safe_load(block)
        parts = recipe.get("slices", [{"sources": recipe.get("models")}])
        models = [source for part in parts for source in part["sources"]]
        folders = [recipe.get("base_model", "."), recipe.get("target", "."), *(model["model"] for model in models)]
        for folder in folders:
            Path(folder).mkdir(exist_ok=True)
        for model in models:
            if "importance" in model.get("parameters", {}):
                Path(model["parameters"]["importance"]).touch()
        loaded = Recipe.parse(block)
        assert loaded.method_name == recipe["merge_method"]
        assert [spec.name for spec in loaded.models] == list(dict.fromkeys(model["model"] for model in models))


@ALL
def test_links_lead_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = document.parent / path if path else document
            assert linked.exists(), target
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [
                heading.lower().replace("`", "").replace(" ", "-") for heading in headings
            ], target


@ALL
def test_paths_exist(document: Path):
    """What is in code quotes and starts with a folder of the project is one; NAME and STEM stand for any."""
    for quoted in re.findall(
        r"`((?:sta_kernels|bindings|tests|docs|scripts|benchmarks)/[^` ]*)`", document.read_text()
    ):
        pattern = quoted.replace("NAME", "*").replace("STEM", "*").rstrip("/")
        assert list(ROOT.glob(pattern)), quoted


def test_excerpts_are_what_the_files_hold():
    """Code shown in CONTRIBUTING.md stands word for word in the file that was last named before it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = 0
    for match in re.finditer(r"^ *```text\n(.*?)\n *```$", text, re.DOTALL | re.MULTILINE):
        named = re.findall(r"`((?:sta_kernels|bindings)/[^` ]*\.(?:py|inl))`", text[: match.start()])
        candidates = [(ROOT / path).read_text(encoding="utf-8") for path in named[-2:]]
        assert any(match[1] in candidate for candidate in candidates), match[1]
        shown += 1
    assert shown == 5


@ALL
def test_commands_and_options_exist(document: Path, capsys: pytest.CaptureFixture[str]):
    for line in "\n".join(blocks(document, "sh")).splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["sta-kernels"]:
            assert words[1] in COMMANDS, line
            with pytest.raises(SystemExit):
                main([words[1], "--help"])
            shown = capsys.readouterr().out
            assert all(re.search(rf"{word}\b", shown) for word in words if word.startswith("--")), line


def test_targets_of_make_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", text, re.MULTILINE):
            assert target in targets, (document.name, target)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_documented(name: str):
    """One section per method; its table has one row per parameter, with its key, default and reach."""
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert section, f"docs/methods.md has no section ## `{name}`"
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*)\|", section[1], re.MULTILINE)
    stated = {key: (default.strip(), reach.strip()) for key, default, reach in rows}
    expected = {p.key: (_shown(p), "yes" if p.per_model else "") for p in methods.get(name).parameters}
    assert stated == expected


def _shown(parameter: Parameter) -> str:
    default = parameter.default
    if default is REQUIRED:
        return "required"
    if default is None:
        return "–"
    return str(default).lower() if isinstance(default, bool) else f"{default:g}" if _is_number(default) else default


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
