"""How much of everything a run takes."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of images and steps; what is cached under other numbers is not looked at.

    Attributes:
        test: images per task in the main tables.
        brief: of these, how many the tables of many merges take (pairs, forgetting, single models).
        small: test images of tasks that have few (emoji).
        validation: images per task on which coefficients are chosen.
        steps: batches of 32 of fine-tuning.
        samples: of importance.
        learning: steps of AdaMerging.
    """

    test: int = 750
    brief: int = 500
    small: int = 500
    validation: int = 250
    steps: int = 80
    samples: int = 32
    learning: int = 60

    def test_of(self, task: str) -> int:
        """Test images of a task."""
        return self.small if task == "emoji" else self.test

    def digest(self) -> str:
        """Names the folder of a run's cache."""
        return hashlib.sha256(repr(sorted(asdict(self).items())).encode()).hexdigest()[:8]
