"""Figures in words."""

from __future__ import annotations

import pytest

from sta_kernels.cli.render import profile, size, table
from sta_kernels.engine import Profile


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (123_456, "123 kB"),
        (2_684_354_560, "2.68 GB"),
        (999_400, "999 kB"),
        (999_999, "1 MB"),
        (5_000_000_000_000_000, "5,000 TB"),
    ],
)
def test_size(count: int, text: str):
    assert size(count) == text


def test_table_aligns_and_leaves_no_trailing_blanks():
    assert table([("a", "1"), ("long", ""), ("", "2")]) == "a     1\nlong\n      2"


def test_a_profile_adds_up_to_the_total():
    times = Profile()
    times.threads, times.total = 2, 4.0
    for stage, seconds in (("start-up", 0.5), ("read", 3.0), ("merge", 2.0), ("sync", 0.25)):
        times.charge(stage, seconds)
    lines = dict(line.split(maxsplit=1) for line in profile(times).splitlines()[:-1])
    assert {stage: float(line.split()[0]) for stage, line in lines.items()} == {
        "start-up": 0.5, "read": 1.5, "merge": 1.0, "sync": 0.25, "other": 0.75, "total": 4.0
    }  # fmt: skip
    assert lines["read"] == "1.500 s  37.5% *"
