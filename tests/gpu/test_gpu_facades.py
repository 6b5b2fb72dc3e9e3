"""State dicts, checkpoints and importances on a GPU."""

from __future__ import annotations

from facade_cases import *  # noqa: F403
