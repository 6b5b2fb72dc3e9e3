"""The picture in docs/architecture.md, held against the imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sta_kernels

PACKAGE = Path(sta_kernels.__file__).parent
PICTURE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
OPEN_TO_ALL = {"errors", "_version"}
ABOVE_ALL = {"__init__", "__main__"}


def drawn() -> dict[str, set[str]]:
    """Arrows of the picture, those through public names among them."""
    arrows: dict[str, set[str]] = {}
    for start, ends in re.findall(r"^    (\w+) (?:-->|-\..*?\.->) (.+)$", PICTURE, re.MULTILINE):
        arrows.setdefault(start, set()).update(ends.split(" & "))
    return arrows


def below(part: str, arrows: dict[str, set[str]]) -> set[str]:
    """Everything that arrows lead to."""
    found: set[str] = set()
    todo = [part]
    while todo:
        for end in arrows.get(todo.pop(), set()) - found:
            found.add(end)
            todo.append(end)
    return found


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports at run time, and whether as soon as it is imported itself."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module == "sta_kernels":
                yield from ((f"sta_kernels.{alias.name}", at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                yield child.module, at_once
            yield from walk(child, at_once and not isinstance(child, ast.FunctionDef))

    return walk(ast.parse(path.read_text(encoding="utf-8")), True)


def part_of(path: Path) -> str:
    """The part that a file belongs to; state_dict is drawn with merging."""
    top = path.relative_to(PACKAGE).with_suffix("").parts[0]
    return "merging" if top == "state_dict" else top


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(path) not in OPEN_TO_ALL | ABOVE_ALL]
PARTS = sorted({part_of(path) for path in FILES})


def imported(part: str) -> set[str]:
    """Other parts that a part imports directly, at any time."""
    modules = {module for path in FILES if part_of(path) == part for module, _ in imports(path)}
    parts = {module.split(".")[1] for module in modules if module.startswith("sta_kernels.")}
    return {"merging" if name == "state_dict" else name for name in parts} - {part} - OPEN_TO_ALL


def test_every_part_is_drawn():
    arrows = drawn()
    assert set(PARTS) == set(arrows)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_only_what_is_below_it(part: str):
    arrows = drawn()
    assert imported(part) <= below(part, arrows)
    assert part not in below(part, arrows)


@pytest.mark.parametrize("part", [part for part in PARTS if part != "kernels"])
def test_every_arrow_is_an_import(part: str):
    solid = re.findall(rf"^    {part} --> (.+)$", PICTURE, re.MULTILINE)
    assert {end for ends in solid for end in ends.split(" & ")} <= imported(part)


def test_the_reference_imports_nothing_of_the_package_outside_itself():
    for path in (PACKAGE / "kernels" / "reference").glob("*.py"):
        own = [module for module, _ in imports(path) if module.startswith("sta_kernels")]
        assert all(module.startswith("sta_kernels.kernels.reference") for module in own), path


def test_the_coloured_parts_are_those_that_import_torch():
    coloured = re.search(r"^    class ([\w,]+) torch$", PICTURE, re.MULTILINE)
    assert coloured
    found = {part_of(path) for path in FILES for module, at_once in imports(path) if at_once and module == "torch"}
    assert set(coloured[1].split(",")) == found
