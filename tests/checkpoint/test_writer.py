"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sta_kernels.checkpoint import ShardWriter, atomic_write, positioned, writer
from sta_kernels.errors import RunError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def partial(path):
    return path.with_name(".model.safetensors.partial")


def test_nothing_stands_under_the_name_before_the_end(path):
    with ShardWriter(path, 10) as out:
        out.write(0, b"01234")
        assert not path.exists()
        assert partial(path).stat().st_size == 10
        out.write(5, np.frombuffer(b"56789", np.uint8))
        out.finish()
    assert path.read_bytes() == b"0123456789"
    assert not partial(path).exists()


def test_room_is_reserved_at_once(path):
    with ShardWriter(path, 1 << 20):
        assert partial(path).stat().st_blocks * 512 >= 1 << 20


def test_writes_of_many_threads(path):
    data = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    with ShardWriter(path, data.size) as out, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda start: out.write(start, data[start : start + 1000]), range(0, data.size, 1000)))
        out.finish()
    assert path.read_bytes() == data.tobytes()


def test_an_older_file_stays_until_the_end(path):
    path.write_bytes(b"old")
    with ShardWriter(path, 3) as out:
        out.write(0, b"new")
        assert path.read_bytes() == b"old"
        out.finish()
    assert path.read_bytes() == b"new"


def test_resume_finds_what_was_written(path):
    with ShardWriter(path, 6) as out:
        assert not out.resumed
        out.write(0, b"abc")
    with ShardWriter(path, 6, resume=True) as out:
        assert out.resumed
        half = bytearray(3)
        out.read_into(0, half)
        assert half == b"abc"
        out.write(3, b"def")
        out.finish()
    assert path.read_bytes() == b"abcdef"


@pytest.mark.parametrize(("size", "resume"), [(6, False), (7, True)], ids=["not asked", "another size"])
def test_start_anew(path, size, resume):
    with ShardWriter(path, 6) as out:
        out.write(0, b"abcdef")
    with ShardWriter(path, size, resume=resume) as out:
        assert not out.resumed
        read = bytearray(size)
        out.read_into(0, read)
        assert read == bytes(size)


def test_resume_without_anything_there(path):
    with ShardWriter(path, 6, resume=True) as out:
        assert not out.resumed


def test_discard(path):
    out = ShardWriter(path, 6)
    out.discard()
    out.discard()
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(("offset", "data"), [(-1, b"a"), (6, b"a"), (0, b"1234567")])
def test_range_outside_the_file(path, offset, data):
    with ShardWriter(path, 6) as out:
        with pytest.raises(ValueError, match="of a file of 6"):
            out.write(offset, data)
        with pytest.raises(ValueError, match="of a file of 6"):
            out.read_into(offset, bytearray(data))


def test_closed(path):
    with ShardWriter(path, 6) as out:
        pass
    with pytest.raises(ValueError, match="closed"):
        out.write(0, b"a")


def test_no_folder(tmp_path):
    with pytest.raises(RunError, match="cannot be created: No such file"):
        ShardWriter(tmp_path / "absent" / "x", 6)


def test_a_link_in_the_way_is_not_written_through(path):
    victim = path.with_name("victim")
    victim.write_bytes(b"precious")
    partial(path).symlink_to(victim)
    for resume in (False, True):
        with pytest.raises(RunError, match="cannot be created"):
            ShardWriter(path, 8, resume=resume)
    assert victim.read_bytes() == b"precious"


def test_full_disk_is_found_at_the_start(path, monkeypatch):
    def full(fd, offset, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match=r"partial: 1000 bytes cannot be reserved: No space left"):
        ShardWriter(path, 1000)
    assert os.listdir(path.parent) == []


def test_file_size_limit_is_found_at_the_start(path):
    """A real refusal of the system, without any injection."""
    code = (
        "import resource, signal, sys\n"
        "from sta_kernels.checkpoint import ShardWriter\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"ShardWriter({str(path)!r}, 8192)\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "RunError" in run.stderr
    assert "8192 bytes cannot be reserved: File too large" in run.stderr
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_that_cannot_reserve(path, monkeypatch, code):
    def refuse(fd, offset, size):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with ShardWriter(path, 1000):
        assert partial(path).stat().st_size == 1000
    with pytest.raises(RunError, match="cannot be reserved: No space left"):
        ShardWriter(path, 1 << 60)


def test_write_errors_name_file_and_offset(path, monkeypatch):
    def broken(fd, view, offset):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with ShardWriter(path, 100) as out:
        monkeypatch.setattr(positioned, "_pwrite", broken)
        with pytest.raises(RunError, match=r"partial: write at byte 7 failed: Input/output error"):
            out.write(7, b"a")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_nothing_gets_its_name_when_the_end_fails(path, monkeypatch, step):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with ShardWriter(path, 3) as out:
        out.write(0, b"abc")
        with monkeypatch.context() as patch:
            patch.setattr(os, step, broken)
            with pytest.raises(RunError, match="Input/output error"):
                out.finish()
    assert not path.exists()
    with ShardWriter(path, 3, resume=True) as out:
        assert out.resumed
        out.finish()
    assert path.read_bytes() == b"abc"


def test_synced_before_renamed(path, monkeypatch):
    steps = []

    def recorded(name, call):
        def wrapper(*arguments):
            steps.append(
                name if name != "fsync" or not stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else "fsync folder"
            )
            return call(*arguments)

        return wrapper

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    with ShardWriter(path, 3) as out:
        out.write(0, b"abc")
        out.finish()
    assert steps == ["fsync", "replace", "fsync folder"]


def test_short_writes_are_continued(path, monkeypatch):
    monkeypatch.setattr(positioned, "_pwrite", lambda fd, view, offset: os.pwrite(fd, view[:3], offset))
    with ShardWriter(path, 10) as out:
        out.write(0, b"0123456789")
        out.finish()
    assert path.read_bytes() == b"0123456789"


def test_systems_without_positioned_writes(path, monkeypatch):
    monkeypatch.setattr(positioned, "_pwrite", positioned._seek_write)
    with ShardWriter(path, 4) as out:
        out.write(2, b"cd")
        out.write(0, b"ab")
        out.finish()
    assert path.read_bytes() == b"abcd"


def test_atomic_write(path, monkeypatch):
    atomic_write(path, b"one")
    atomic_write(path, b"")
    assert path.read_bytes() == b""
    atomic_write(path, b"two")

    def broken(*_):
        raise RunError("broken")

    monkeypatch.setattr(writer, "_sync", broken)
    with pytest.raises(RunError, match="broken"):
        atomic_write(path, b"three")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == [path.name]
