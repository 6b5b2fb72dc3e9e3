"""Heads, fine-tuning and the model's own files, on a tiny transformer and generated images."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from sta_kernels.demo.data import Pictures, Task
from sta_kernels.demo.pipeline import deterministic, load_model, save_model
from sta_kernels.demo.train import (
    LOGIT_SCALE,
    accuracy,
    features_of,
    few_shots,
    finetune,
    ridge_head,
    to_input,
)
from sta_kernels.demo.vit import Vit, VitConfig

CONFIG = VitConfig(width=64, hidden=96, depth=2, patch=7, image=14)


def make_pictures(count, seed):
    """Two classes: bright above or bright below."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 100, (count, 14, 14)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[7 * label : 7 * label + 7] += 60
    return Pictures(images, labels.astype(np.int64))


@pytest.fixture(scope="module")
def task():
    return Task("halves", 2, make_pictures(120, 0), make_pictures(60, 1))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = Vit(CONFIG)
        torch.nn.init.normal_(vit.pos_embed, std=0.5)
    return vit.eval()


def test_input_is_normalised_colour():
    grey = np.full((2, 28, 28), 255, np.uint8)
    colour = np.zeros((1, 72, 72, 3), np.uint8)
    colour[..., 2] = 255
    x, y = to_input(grey, 56), to_input(colour, 56)
    assert x.shape == (2, 3, 56, 56)
    assert y.shape == (1, 3, 56, 56)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(x[0, :, 20, 20], torch.tensor(expected))
    torch.testing.assert_close(y[0, :, 20, 20], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, (1 - 0.406) / 0.225]))


def test_features_have_unit_length_and_do_not_depend_on_the_batch(model, task):
    features = features_of(model, task.train.images)
    assert features.shape == (120, 128)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(120))
    torch.testing.assert_close(features[7:8], features_of(model, task.train.images[7:8]))


def test_few_shots_are_balanced(task):
    shots = few_shots(task.train, 5, np.random.default_rng(0))
    assert np.bincount(shots.labels).tolist() == [5, 5]


def test_ridge_head_minimises_its_own_objective(model, task):
    head = ridge_head(model, task, np.random.default_rng(0))
    shots = few_shots(task.train, 20, np.random.default_rng(0))
    features = features_of(model, shots.images).double().clone()
    targets = 2 * torch.nn.functional.one_hot(torch.from_numpy(shots.labels), 2).double() - 1
    weight, bias = (value.double().requires_grad_() for value in (head.weight, head.bias))
    objective = ((features @ weight + bias - targets) ** 2).sum() + (weight**2).sum()
    gradients = torch.autograd.grad(objective, (weight, bias))
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-4


def test_loss_is_scaled_cross_entropy(model, task):
    head = ridge_head(model, task, np.random.default_rng(0))
    features = features_of(model, task.test.images[:3])
    labels = torch.from_numpy(task.test.labels[:3])
    chances = torch.softmax(LOGIT_SCALE * (features @ head.weight + head.bias), dim=1)
    expected = -chances[torch.arange(3), labels].log().mean()
    torch.testing.assert_close(head.loss(features, labels), expected)


def trained(model, task, seed=0):
    student = copy.deepcopy(model)
    rng = np.random.default_rng(seed)
    head = ridge_head(student, task, rng)
    losses = []
    with deterministic(0):
        finetune(student, head, task.train, steps=25, rng=rng, progress=lambda _, loss: losses.append(loss))
    return student, head, losses


def test_finetuning_learns_changes_blocks_only_and_repeats(model, task):
    student, head, losses = trained(model, task)
    assert len(losses) == 25
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert accuracy(student, head, task.test) > 0.7
    assert not student.training
    before, after = model.state_dict(), student.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    blocks = {name for name in before if name.startswith("blocks.")}
    # Softmax does not see the key's bias, so its gradient is rounding noise at most.
    assert {name for name in blocks if not name.endswith("key.bias")} <= changed <= blocks
    again = trained(model, task)[0].state_dict()
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_models_survive_their_folder(model, tmp_path):
    save_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["depth"] == 2
    loaded = load_model(tmp_path)
    assert loaded.config == CONFIG
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_determinism_is_put_back():
    state = torch.random.get_rng_state()
    with deterministic(3):
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(3)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)
