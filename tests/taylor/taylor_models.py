"""Small random models of the kinds that importance must be exact for, and the plain loop that it must equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Case:
    """A model, its samples of one, and the loss on a pair (output, target)."""

    model: nn.Module
    samples: list[tuple[Tensor, Tensor]]
    loss: Callable[[Any, Tensor], Tensor]


def gradients(case: Case) -> list[dict[str, Tensor]]:
    """Gradient of every trainable parameter, sample by sample, from a loop without hooks."""
    case.model.eval()
    rows = []
    for inputs, target in case.samples:
        case.model.zero_grad()
        case.loss(case.model(inputs), target).backward()
        rows.append(
            {
                name: torch.zeros_like(param) if param.grad is None else param.grad.clone()
                for name, param in case.model.named_parameters(remove_duplicate=False)
                if param.requires_grad
            }
        )
    case.model.zero_grad()
    return rows


def plain_importance(case: Case, measure: str = "lp") -> dict[str, Tensor]:
    """|θ|·Σ|g|, and ·θ², as plain float32 torch operations."""
    rows = gradients(case)
    parameters = dict(case.model.named_parameters(remove_duplicate=False))
    result = {}
    for name in rows[0]:
        total = torch.zeros(parameters[name].shape)
        for row in rows:
            total += row[name].float().abs()
        theta = parameters[name].detach().float()
        result[name] = theta.abs() * total
        if measure == "lp_amp":
            result[name] *= theta * theta
    return result


def same_bits(ours: Any, theirs: dict[str, Tensor]) -> bool:
    """Equal names in equal order, and equal bits."""
    assert list(ours) == list(theirs)
    return all(torch.equal(ours[name].view(torch.int32), theirs[name].view(torch.int32)) for name in theirs)


class ImageModel(nn.Module):
    """CLIP's image tower with a frozen head; the text tower and logit_scale take no part."""

    def __init__(self) -> None:
        super().__init__()
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        self.clip = CLIP(
            16,
            CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=16),
            CLIPTextCfg(context_length=8, vocab_size=32, width=16, heads=2, layers=1),
        )
        self.head = nn.Linear(16, 5)
        self.head.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.clip.encode_image(images))


class TiedLanguageModel(nn.Module):
    """A transformer whose output layer is its embedding, with dropout, and one block that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(23, 16)
        self.position = nn.Parameter(torch.randn(12, 16) * 0.1)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.5, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.unembed = nn.Linear(16, 23, bias=False)
        self.unembed.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        return self.unembed(self.norm(self.block(self.block(x))))
