"""Heads, classifiers and importances, on generated pictures."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from torchvision.datasets import FakeData
from vision_cases import picture

from sta_kernels import InputError
from sta_kernels.vision import (
    Classifier,
    Clip,
    Prompts,
    Split,
    amp_importance,
    build,
    choose,
    task_importance,
    zero_shot_head,
)

CLASSES = ("cat", "dog", "fox")


def fake(count: int, side: int = 32) -> Split:
    """torchvision's own generated pictures."""
    return Split("fake", FakeData(count, (3, side, side), len(CLASSES)), Prompts(CLASSES, ["a photo of a {}.", "a {}"]))


def test_a_head_is_made_of_texts(clip: Clip):
    prompts = fake(1).prompts
    head = zero_shot_head(clip, prompts)
    assert head.shape == (16, 3)
    for position, name in enumerate(CLASSES):
        texts = clip.tokenizer([template.format(name) for template in prompts.templates])  # type: ignore[union-attr]
        with torch.no_grad():
            mean = normalize(clip.model.encode_text(texts), dim=-1).mean(0)  # type: ignore[operator]
            expected = normalize(mean, dim=-1) * clip.model.logit_scale.exp()  # type: ignore[operator]
        torch.testing.assert_close(head[:, position], expected, rtol=1e-4, atol=1e-5)
    assert not head.requires_grad


def test_a_head_with_functions_as_templates(clip: Clip):
    given = Prompts(CLASSES, [lambda name: f"a {name}"])
    torch.testing.assert_close(zero_shot_head(clip, given), zero_shot_head(clip, Prompts(CLASSES, ["a {}"])))


def test_a_classifier_has_the_encoders_parameters(clip: Clip):
    classifier = Classifier(clip.visual, zero_shot_head(clip, fake(1).prompts))
    assert all(name.startswith("visual.") for name, _ in classifier.named_parameters())
    assert {name for name, _ in classifier.named_parameters()} <= clip.model.state_dict().keys()
    images = torch.randn(2, 3, 32, 32)
    expected = normalize(clip.model.encode_image(images), dim=-1) @ classifier.head  # type: ignore[operator]
    torch.testing.assert_close(classifier(images), expected)


def test_importance_is_the_sum_of_single_pictures(clip: Clip):
    split = fake(9)
    classifier = Classifier(clip.visual, zero_shot_head(clip, split.prompts))
    positions = choose(split, 4, seed=1)
    seen: list[int] = []
    result = task_importance(classifier, split, positions, clip.preprocess, progress=seen.append)
    assert seen == [0, 1, 2, 3, 4]
    assert (result.samples, result.measure) == (4, "lp")
    parameters = dict(classifier.named_parameters())
    sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for position in positions:
        image, label = split.data[position]
        loss = cross_entropy(classifier(clip.preprocess(image)[None]), torch.tensor([int(label)]))
        for name, grad in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            sums[name] += grad.abs()
    for name, value in parameters.items():
        torch.testing.assert_close(result[name], value.detach().abs() * sums[name], rtol=1e-3, atol=1e-7)
    assert all(result[name].any() for name in parameters)


def test_amp_reads_the_weights_alone(clip: Clip):
    result = amp_importance(clip.visual)
    assert (result.samples, result.measure) == (0, "amp")
    assert torch.equal(result["visual.proj"], clip.model.state_dict()["visual.proj"].square())


def test_pictures_are_drawn_by_the_seed():
    split = fake(100)
    first = choose(split, 32, seed=0)
    assert first == choose(split, 32, seed=0) != choose(split, 32, seed=1)
    assert len(set(first)) == 32
    assert sorted(choose(split, 100, seed=0)) == list(range(100))


@pytest.mark.parametrize(("samples", "reason"), [(101, "101 asked for, and fake has 100"), (0, "at least 1, not 0")])
def test_how_many_pictures(samples: int, reason: str):
    with pytest.raises(InputError, match=reason):
        choose(fake(100), samples, seed=0)


def test_vit_b_16():
    """The paper's own model, randomly initialised: heads, importance of every entry, and its file."""
    torch.manual_seed(0)
    clip = build("open_clip:ViT-B-16")
    with torch.no_grad():
        for parameter in clip.visual.parameters():
            parameter += 0.001  # biases are 0 at first, and what is 0 has no importance
    split = Split("fake", [(picture(number, 50), number % 3) for number in range(2)], fake(1).prompts)
    classifier = Classifier(clip.visual, zero_shot_head(clip, split.prompts))
    result = task_importance(classifier, split, [0], clip.preprocess)
    names = {name for name in clip.model.state_dict() if name.startswith("visual.")}
    assert set(result) == names
    assert sum(tensor.numel() for tensor in result.values()) == 86_192_640
    assert result["visual.transformer.resblocks.11.attn.in_proj_weight"].shape == (2304, 768)
    dead = {name for name in names if not result[name].any()}
    assert not dead, dead
