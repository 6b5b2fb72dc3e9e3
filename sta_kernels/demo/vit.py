"""A plain vision transformer of the DINOv2 structure, as a feature extractor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, normalize, scaled_dot_product_attention

HEAD_WIDTH = 64
"""Channels per attention head: the same in every DINOv2 size."""
EPSILON = 1e-6
"""Of the layer norms, as in the ONNX graph."""


@dataclass(frozen=True)
class VitConfig:
    """Sizes of the transformer; ``image`` must be a multiple of ``patch``, ``width`` of :data:`HEAD_WIDTH`."""

    width: int = 384
    hidden: int = 1536
    depth: int = 8
    patch: int = 14
    image: int = 56

    @property
    def patches(self) -> int:
        """Patches along one side."""
        return self.image // self.patch


class Attention(nn.Module):
    """Multi-head self-attention with separate projections, so that each is one entry of a checkpoint."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] to the same."""
        batch, tokens, width = x.shape
        heads = [layer(x).view(batch, tokens, -1, HEAD_WIDTH).transpose(1, 2) for layer in self.projections()]
        mixed = scaled_dot_product_attention(*heads)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))

    def projections(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Query, key and value."""
        return self.query, self.key, self.value


class Mlp(nn.Module):
    """Two linear layers with a GELU (by the error function) between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] to the same."""
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled per channel (LayerScale) before it is added."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPSILON)
        self.attn = Attention(config.width)
        self.scale1 = nn.Parameter(torch.ones(config.width))
        self.norm2 = nn.LayerNorm(config.width, eps=EPSILON)
        self.mlp = Mlp(config.width, config.hidden)
        self.scale2 = nn.Parameter(torch.ones(config.width))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] to the same."""
        x = x + self.scale1 * self.attn(self.norm1(x))
        return x + self.scale2 * self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Images to unit-length features.

    Args:
        config: the sizes.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.patches**2, config.width))
        self.patch_embed = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))

    def embed(self, images: Tensor) -> Tensor:
        """[batch, 3, image, image] to the first block's input [batch, 1 + patches², width]: no block's weights."""
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        return torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1) + self.pos_embed

    def tokens(self, images: Tensor) -> Tensor:
        """[batch, 3, image, image] to the last block's output [batch, 1 + patches², width]."""
        return self.run_blocks(self.embed(images))

    def run_blocks(self, x: Tensor) -> Tensor:
        """The first block's input to the last one's output, both [batch, 1 + patches², width]."""
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, image, image] to [batch, 2·width]; :meth:`features` of the :meth:`tokens`."""
        return self.features(self.tokens(images))

    def features(self, tokens: Tensor) -> Tensor:
        """[batch, 1 + patches², width] to [batch, 2·width]: class token and mean patch after a norm without weights."""
        x = layer_norm(tokens, (self.config.width,), eps=EPSILON)
        return normalize(torch.cat((x[:, 0], x[:, 1:].mean(1)), dim=-1), dim=-1)


def freeze_all_but_blocks(model: Vit) -> None:
    """Let gradients reach the entries ``blocks.*`` alone: the ones that are fine-tuned and merged."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("blocks."))
