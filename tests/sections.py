"""What tests have to say at the end of a run, whichever process they ran in."""

from __future__ import annotations

import pytest

SECTIONS = pytest.StashKey[dict[str, str]]()
"""Title and text of sections for the terminal's summary."""
