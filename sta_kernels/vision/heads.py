"""An image encoder with a frozen head that CLIP's text encoder gives: one direction per class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sta_kernels.vision.extra import need
from sta_kernels.vision.models import Clip
from sta_kernels.vision.prompts import Prompts


class Classifier(nn.Module):
    """Images [batch, 3, height, width] to logits [batch, classes]: unit-length features times a frozen head.

    Its parameters are the encoder's alone, under the names ``visual.*`` that they have in an open_clip model: an
    importance of it belongs to that model's files.

    Args:
        visual: the image encoder.
        head: [features, classes], scaled.
    """

    head: Tensor

    def __init__(self, visual: nn.Module, head: Tensor) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("head", head, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return normalize(self.visual(images), dim=-1) @ self.head


def zero_shot_head(clip: Clip, prompts: Prompts) -> Tensor:
    """Head [features, classes] from texts, times CLIP's temperature ``exp(logit_scale)``.

    A class's direction is the mean, brought to length 1, of the unit-length embeddings of its name in every template.

    Args:
        clip: the pretrained model, on any device.
        prompts: names of the classes, and templates.
    """
    device = next(clip.model.parameters()).device
    scale = clip.model.logit_scale
    assert isinstance(scale, Tensor)
    names: Sequence[str] = prompts.classes
    with torch.no_grad():
        directions = need("open_clip").build_zero_shot_classifier(
            clip.model, clip.tokenizer, names, prompts.templates, device=device
        )
        return directions.float() * scale.exp()
