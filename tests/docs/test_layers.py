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


def part_of_module(module: str) -> str:
    """The part that a module of the package belongs to; state dicts are drawn with merging, staging by itself."""
    _, top, *below_it = module.split(".")
    if [top, *below_it[:1]] == ["engine", "staging"]:
        return "staging"
    return "merging" if top.startswith("state_dict") else top


def box_of_module(module: str) -> str:
    """The box of the picture: the part, or what of it is drawn apart."""
    return "triton" if module.startswith("sta_kernels.kernels.triton") else part_of_module(module)


def module_of(path: Path) -> str:
    return ".".join(("sta_kernels", *path.relative_to(PACKAGE).with_suffix("").parts))


def part_of(path: Path) -> str:
    return part_of_module(module_of(path))


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(path) not in OPEN_TO_ALL | ABOVE_ALL]
PARTS = sorted({part_of(path) for path in FILES})


def imported(part: str) -> set[str]:
    """Other parts that a part imports directly, at any time."""
    modules = {module for path in FILES if part_of(path) == part for module, _ in imports(path)}
    return {part_of_module(module) for module in modules if module.startswith("sta_kernels.")} - {part} - OPEN_TO_ALL


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


def coloured() -> set[str]:
    line = re.search(r"^    class ([\w,]+) torch$", PICTURE, re.MULTILINE)
    assert line
    return set(line[1].split(","))


def imported_at_once() -> Iterator[tuple[str, str]]:
    """Each file's box, and a module that is imported with it."""
    for path in FILES:
        yield from ((box_of_module(module_of(path)), module) for module, at_once in imports(path) if at_once)


def test_the_coloured_parts_are_those_that_import_torch():
    assert coloured() == {box for box, module in imported_at_once() if module.split(".")[0] in ("torch", "triton")}


def test_what_is_not_coloured_loads_what_is_only_when_needed():
    for box, module in imported_at_once():
        if box not in coloured() and module.startswith("sta_kernels."):
            assert box_of_module(module) not in coloured(), (box, module)
