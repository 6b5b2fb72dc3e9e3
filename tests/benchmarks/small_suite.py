"""The offline suite on made-up tasks and an untrained ViT of two narrow blocks: seconds, and nothing is downloaded.

Run as a program with a folder, it is a process that can be killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.accuracy.offline.command import Clock, Suite
from benchmarks.accuracy.offline.plan import Sizes
from benchmarks.accuracy.offline.tasks import Pool
from sta_kernels.demo.data import Pictures
from sta_kernels.demo.vit import Vit, VitConfig

SIZES = Sizes(test=24, brief=16, small=24, validation=12, steps=2, samples=4, learning=2)
TASKS = ("circles", "squares")
SEEDS = (0,)
SECTIONS = ("controls", "p", "forgetting", "pairs", "single")
"""Those whose cost is the merges'; ``merging`` is always run with them."""


def pool(seed: int, classes: int = 3, count: int = 84) -> Pool:
    """Noisy copies of one random picture per class."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 30, (classes, 28, 28))
    labels = np.arange(count) % classes
    images = patterns[labels] + rng.integers(0, 226, (count, 28, 28))
    return Pool(Pictures(images.astype(np.uint8), labels.astype(np.int64)))


def base() -> Vit:
    """The "pretrained" model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Vit(VitConfig(width=64, hidden=128, depth=2)).eval()


def pools() -> dict[str, Pool]:
    """The tasks."""
    return {name: pool(number) for number, name in enumerate(TASKS)}


def suite(cache: Path) -> Suite:
    """Everything."""
    return Suite(base(), pools(), SEEDS, SIZES, cache, Clock())


if __name__ == "__main__":
    torch.set_num_threads(1)
    running = suite(Path(sys.argv[1]))
    running.prepare()
    running.rows(SECTIONS)
