"""The command ``mergekit-sta``."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """``mergekit-yaml`` that knows ``sta``; without mergekit, a line that says what to install."""
    if find_spec("mergekit") is None:
        sys.exit("mergekit-sta needs mergekit 0.1.5 in this environment: pip install mergekit==0.1.5")
    from sta_kernels.integrations import mergekit

    mergekit.main()
