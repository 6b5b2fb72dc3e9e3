"""``python -m sta_kernels``: the command line."""

from __future__ import annotations

import sys

from sta_kernels.cli import main

if __name__ == "__main__":
    sys.exit(main())
