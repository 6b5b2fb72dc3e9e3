"""From a recipe to a merged checkpoint on disk: plan, run, manifest."""

from __future__ import annotations

from sta_kernels.engine.api import merge_checkpoints
from sta_kernels.engine.jobs import Plan
from sta_kernels.engine.manifest import Manifest
from sta_kernels.engine.profile import Profile
from sta_kernels.engine.verification import verify

__all__ = ["Manifest", "Plan", "Profile", "merge_checkpoints", "verify"]
