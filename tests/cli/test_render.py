"""Figures in words."""

from __future__ import annotations

import pytest

from sta_kernels.cli.render import size, table


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
