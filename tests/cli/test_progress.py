"""The progress bar: on a terminal only, one per stage, never backwards."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from sta_kernels.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, quiet: bool = False) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(quiet) as progress:
        progress("statistics", 0, 2_000_000)
        progress("statistics", 2_000_000, 2_000_000)
        progress("merge", 0, 4_000_000_000)
        progress("merge", 4_000_000_000, 4_000_000_000)
    return stream.getvalue()


def test_bytes_and_stages_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    text = drawn(monkeypatch, Terminal())
    assert "statistics: 100%" in text
    assert "merge: 100%" in text
    assert "4.00G/4.00G" in text
    assert "B/s" in text


def test_silent_without_a_terminal_or_when_quiet(monkeypatch: pytest.MonkeyPatch):
    assert drawn(monkeypatch, io.StringIO()) == ""
    assert drawn(monkeypatch, Terminal(), quiet=True) == ""


def test_late_reports_of_other_threads_do_not_turn_it_back(monkeypatch: pytest.MonkeyPatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress() as progress:
        reports = [threading.Thread(target=progress, args=("merge", done, 100)) for done in (100, 40, 70)]
        for report in reports:
            report.start()
        for report in reports:
            report.join()
        progress("merge", 10, 100)
    assert "100/100" in stream.getvalue().rpartition("\r")[2]


def test_an_error_closes_the_bar(monkeypatch: pytest.MonkeyPatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)

    def fail() -> None:
        with Progress() as progress:
            progress("merge", 5, 10)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert stream.getvalue().endswith("\n")
