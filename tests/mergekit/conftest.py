"""mergekit in a process and an environment of its own; without one these tests are skipped.

`make test-mergekit` makes the environment and names its Python; then a mergekit that does not start is an error.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from mergekit_checkpoints import Family, write_llama, write_vit
from sections import SECTIONS

HERE = Path(__file__).parent
VERSION = "0.1.5"


class MergekitError(Exception):
    """What mergekit raised, as text."""


class Mergekit:
    """mergekit behind a pipe."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, str(HERE / "driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, job: str, **arguments: Any) -> Any:
        """One job; MergekitError where it raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"job": job, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise MergekitError(answer["error"])
        return answer["result"]

    def merge(self, recipe: Path, out: Path, **options: Any) -> None:
        """Merge as `mergekit-yaml RECIPE OUT` would."""
        self.ask("merge", recipe=str(recipe), out=str(out), **options)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The Python of the environment that has mergekit."""
    parser.addoption("--mergekit-python", help=f"Python with mergekit {VERSION}, to compare with")


def pytest_configure(config: pytest.Config) -> None:
    """End before anything is collected where the Python that was named has no such mergekit."""
    python = config.getoption("mergekit_python", default=None)
    if python is not None and (problem := mergekit_problem(python)) is not None:
        pytest.exit(f"no mergekit to compare with: {problem}", returncode=2)


def mergekit_problem(python: str) -> str | None:
    """Why this Python does not serve, or None."""
    code = "import importlib.metadata as m; print(m.version('mergekit'))"
    try:
        shown = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python}: {error.strerror}"
    if shown.returncode != 0:
        return f"{python}: {shown.stderr.strip().splitlines()[-1]}"
    found = shown.stdout.strip()
    return None if found == VERSION else f"{python}: mergekit {found}, not {VERSION}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip where no Python was named."""
    if config.getoption("mergekit_python", default=None) is None:
        for item in items:
            if item.path.parent == HERE:
                item.add_marker(pytest.mark.skip(reason="needs mergekit: make test-mergekit"))


@pytest.fixture(scope="session")
def mergekit(pytestconfig: pytest.Config) -> Iterator[Mergekit]:
    """The one process that runs mergekit."""
    served = Mergekit(pytestconfig.getoption("mergekit_python"))
    yield served
    served.close()


@pytest.fixture(scope="session")
def families(mergekit: Mergekit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """A base and its fine-tuned models, per architecture and stored dtype."""
    folder = tmp_path_factory.mktemp("families")

    def shapes(config: Mapping[str, Any], model: str) -> dict[str, list[int]]:
        return mergekit.ask("names", config=dict(config), model=model)

    return {
        "llama": write_llama(folder / "llama", seed=11),
        "tied": write_llama(folder / "tied", seed=13, tied=True),
        "bfloat16": write_llama(folder / "bfloat16", seed=17, dtype="bfloat16"),
        "vit": write_vit(folder / "vit", seed=19, shapes=shapes),
    }


@pytest.fixture(scope="session")
def tie_counts(pytestconfig: pytest.Config) -> Iterator[dict[str, int]]:
    """Entries per method that differ because a tie decides them, or on purpose; told at the end of the run."""
    counts: dict[str, int] = {}
    yield counts
    told = ", ".join(f"{method} {count}" for method, count in sorted(counts.items())) or "none"
    pytestconfig.stash[SECTIONS]["entries that differ from mergekit's because of a tie, or on purpose"] = told
