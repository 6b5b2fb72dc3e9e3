"""A finished merge as one HTML page: what was merged, what each task gave to it, and where tasks contend."""

from __future__ import annotations

from sta_kernels.report.folder import write_report

__all__ = ["write_report"]
