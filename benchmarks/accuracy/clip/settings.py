"""What a run is asked for, and where its files lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint import hash_file, open_checkpoint
from sta_kernels.checkpoint.folder import TORCH_SUFFIXES
from sta_kernels.demo import recipes as demo

LEARNING_RATE = 1e-5
WEIGHT_DECAY = 0.1
WARM_UP = 500
LARGEST_GRADIENT = 1.0
BATCH = 128
SAMPLES = 32
EPOCHS = {"mnist": 5, "cars": 35, "svhn": 4, "gtsrb": 11, "dtd": 76, "eurosat": 12, "resisc45": 15, "sun397": 14}
"""Those of the task-arithmetic papers' public code (mlfoundations/task_vectors), as are the five numbers above."""
TASKS = tuple(EPOCHS)
PARTS = ("table2", "table3", "pairs")
FROZEN = ("token_embedding.*", "positional_embedding", "ln_final.*", "text_projection", "logit_scale")
"""What the papers' encoder files hold of the text encoder: not trained, but counted in thresholds of a whole model."""


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        model: specification of the architecture.
        pretrained: file, folder or tag of the whole CLIP model.
        tasks: each ``NAME`` or ``NAME=PATH``.
        out: folder for everything that is written.
        data: where torchvision finds the tasks that have no path.
        control: the task that forgetting is to leave alone; None: the other tasks.
        checkpoints: fine-tuned models that are there already, by task.
        prompts: files of class names and templates, by task.
        parts: of :data:`PARTS`.
        epochs: by task; overrides of :data:`EPOCHS`.
        samples: pictures per importance.
        dare_drop: share of entries that the DARE rows drop.
        seed: of everything random.
        limit: test pictures per task; None: all.
        count_frozen: write what the papers' encoder files hold beside the image encoder.
        device: of training and evaluation.
        workers: processes that load pictures.
        batch: pictures at a time in evaluation; training takes :data:`BATCH` at most.
        allow_download: of data and pretrained weights.
        keep: leave merged models in place.
    """

    model: str
    pretrained: str
    tasks: tuple[str, ...]
    out: Path
    data: Path | None = None
    control: str | None = None
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    prompts: Mapping[str, Path] = field(default_factory=dict)
    parts: tuple[str, ...] = PARTS
    epochs: Mapping[str, int] = field(default_factory=dict)
    samples: int = SAMPLES
    dare_drop: float = 0.1
    seed: int = 0
    limit: int | None = None
    count_frozen: bool = False
    device: str = "cpu"
    workers: int = 2
    batch: int = BATCH
    allow_download: bool = False
    keep: bool = False

    @property
    def names(self) -> list[str]:
        """The tasks' names."""
        return [task.partition("=")[0] for task in self.tasks]

    def seed_of(self, number: int) -> int:
        """What is drawn with for the task of that number, in training and by DARE."""
        return self.seed * 1000 + number

    def identity(self) -> dict[str, Any]:
        """What the accuracies depend on: a run is continued only by one that has the same."""
        return {
            "model": self.model,
            "pretrained": self.pretrained,
            "tasks": list(self.tasks),
            "control": self.control,
            "checkpoints": {name: str(path) for name, path in sorted(self.checkpoints.items())},
            "prompts": {name: str(path) for name, path in sorted(self.prompts.items())},
            "epochs": {name: self.epochs.get(name, EPOCHS.get(name)) for name in self.names},
            "samples": self.samples,
            "dare_drop": self.dare_drop,
            "seed": self.seed,
            "limit": self.limit,
            "count_frozen": self.count_frozen,
        }

    def contents(self) -> dict[str, list[dict[str, Any]]]:
        """Size and digest of the given files, by the option that names them; a tag of open_clip's has none.

        Raises:
            InputError: a file or folder is no checkpoint.
            RunError: it cannot be read.
        """
        models = {"--pretrained": Path(self.pretrained)}
        models |= {f"--checkpoint {name}": path for name, path in sorted(self.checkpoints.items())}
        files = {option: _files(path) for option, path in models.items() if path.exists()}
        files |= {f"--prompts {name}": [path] for name, path in sorted(self.prompts.items()) if path.exists()}
        return {
            f"content of {option}": [{"size": file.stat().st_size, "digest": hash_file(file)[1].hex()} for file in each]
            for option, each in files.items()
        }


def _files(path: Path) -> list[Path]:
    """Those with the weights of a checkpoint."""
    if path.is_file() and path.suffix in TORCH_SUFFIXES:  # perhaps a pickled module, which is opened otherwise
        return [path]
    with open_checkpoint(path) as checkpoint:
        return list(checkpoint.files)


class Layout(demo.Layout):
    """Where the files of a run lie: as the demonstration's, and more."""

    def dropped(self, task: str) -> Path:
        """The model of a task after DARE."""
        return self.out / "dare" / task

    @property
    def record(self) -> Path:
        """What was measured so far."""
        return self.out / "results.json"
