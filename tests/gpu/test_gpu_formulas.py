"""Formulas on a GPU."""

from __future__ import annotations

from formula_device_cases import *  # noqa: F403
