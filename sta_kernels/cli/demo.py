"""``sta-kernels demo``: hands its arguments to the demo, which parses them itself."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Run the demo."""
    from sta_kernels.demo import main

    return main(argv) or 0
