"""The models of the importance tests."""

from __future__ import annotations

import pytest
import torch
from taylor_models import Case, ImageModel, TiedLanguageModel
from torch import Tensor, nn


@pytest.fixture
def image_case() -> Case:
    """An open_clip ViT: raw parameters, in_proj_weight, unused and frozen parameters."""
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 16, 16), torch.randint(0, 5, (4,))
    samples = [(images[i : i + 1], labels[i : i + 1]) for i in range(4)]
    return Case(ImageModel(), samples, nn.functional.cross_entropy)


@pytest.fixture
def language_case() -> Case:
    """A tied language model on sequences of different lengths."""
    torch.manual_seed(1)
    tokens = [torch.randint(0, 23, (1, length)) for length in (12, 7, 9, 3)]

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), target[:, 1:].flatten())

    return Case(TiedLanguageModel(), [(t, t) for t in tokens], loss)


@pytest.fixture(params=["image_case", "language_case"])
def case(request: pytest.FixtureRequest) -> Case:
    """Both models in turn."""
    return request.getfixturevalue(request.param)
