"""Wheels are used only with the digest on record, and downloaded only when they are not there."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from sta_kernels.demo.fetch import WHEELS, Package, default_cache, fetch, pip_download, read_member
from sta_kernels.errors import RunError

CONTENT = b"what the wheel holds"


def make_wheel(name: str, content: bytes = CONTENT) -> Package:
    return Package(name, "1.0", f"{name}-1.0.whl", hashlib.sha256(content).hexdigest())


class Index:
    """Stands for the package index: writes ``content`` under the file name asked for."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[str] = []

    def __call__(self, wheels, folder):
        for wheel in wheels:
            self.asked.append(wheel.project)
            (folder / wheel.file_name).write_bytes(self.content)


def test_downloads_what_is_missing_only(tmp_path):
    here, there = make_wheel("here"), make_wheel("there")
    (tmp_path / here.file_name).write_bytes(CONTENT)
    index = Index()
    paths = fetch([here, there], tmp_path, download=index)
    assert index.asked == ["there"]
    assert [paths[wheel].read_bytes() for wheel in (here, there)] == [CONTENT, CONTENT]
    assert sorted(path.name for path in tmp_path.iterdir()) == [here.file_name, there.file_name]


def test_a_damaged_file_is_downloaded_again(tmp_path):
    wheel = make_wheel("damaged")
    (tmp_path / wheel.file_name).write_bytes(CONTENT[:-1])
    index = Index()
    assert fetch([wheel], tmp_path, download=index)[wheel].read_bytes() == CONTENT
    assert index.asked == ["damaged"]


def test_a_wrong_digest_is_refused_and_leaves_nothing(tmp_path):
    wheel = make_wheel("wrong")
    with pytest.raises(RunError, match=f"wrong 1.0.*{wheel.sha256}"):
        fetch([wheel], tmp_path, download=Index(b"something else"))
    assert list(tmp_path.iterdir()) == []


def test_pip_is_asked_for_exact_versions_without_dependencies(tmp_path, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RunError, match=r"a==1.0, b==1.0:\nno network$"):
        pip_download([make_wheel("a"), make_wheel("b")], tmp_path)
    assert "--no-deps" in commands[0]
    assert commands[0][-2:] == ["a==1.0", "b==1.0"]


def test_read_member(tmp_path):
    path = tmp_path / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/data.bin", b"123")
    assert read_member(path, "package/data.bin") == b"123"
    with pytest.raises(RunError, match=r"some\.whl: no member 'package/other'"):
        read_member(path, "package/other")


def test_every_wheel_is_pinned():
    for wheel in WHEELS:
        assert len(wheel.sha256) == 64
        assert wheel.file_name.startswith(f"{wheel.project.replace('-', '_')}-{wheel.version}-")


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "sta_kernels" / "demo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == Path(tmp_path / "home" / ".cache" / "sta_kernels" / "demo")
