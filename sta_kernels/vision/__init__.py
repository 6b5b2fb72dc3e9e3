"""CLIP image encoders: models, checkpoints of several origins, tasks, zero-shot heads, importances.

Needs the extra ``clip``: open_clip and torchvision, which are loaded when something is built or read with them.
"""

from __future__ import annotations

from sta_kernels.vision.checkpoints import Weights, load_encoder, read_weights, save_encoder
from sta_kernels.vision.heads import Classifier, zero_shot_head
from sta_kernels.vision.importance import amp_importance, choose, task_importance
from sta_kernels.vision.models import Clip, build, check_spec, load_pretrained
from sta_kernels.vision.prompts import Prompts
from sta_kernels.vision.tasks import TASKS, Split, open_split

__all__ = [
    "TASKS",
    "Classifier",
    "Clip",
    "Prompts",
    "Split",
    "Weights",
    "amp_importance",
    "build",
    "check_spec",
    "choose",
    "load_encoder",
    "load_pretrained",
    "open_split",
    "read_weights",
    "save_encoder",
    "task_importance",
    "zero_shot_head",
]
