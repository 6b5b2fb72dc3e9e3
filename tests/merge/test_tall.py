"""Masks of a bit per entry restore what `tall_mask` computes from all the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels as sk
from sta_kernels.errors import InputError


def models(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(8)
    shapes = {"a.weight": (13, 11), "b": (), "c.weight": (5,)}
    base: dict[str, Any] = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    base["steps"] = torch.tensor([4])
    tuned = [
        {
            name: (tensor + 0.1 * torch.randn(tensor.shape, generator=generator)).to(dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in base.items()
        }
        for _ in range(3)
    ]
    return base, tuned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restored_from_files(dtype: torch.dtype, tmp_path: Path) -> None:
    base, tuned = models(dtype)
    lambdas = [0.3, 0.5, 0.4]
    merged, masks = sk.tall_masks(base, tuned, mask_lambda=lambdas)
    save_file(merged, tmp_path / "merged.safetensors")
    for task, mask in enumerate(masks):
        save_file(mask, tmp_path / "mask.safetensors")
        assert sum(tensor.numel() for tensor in mask.values()) == 18 + 1 + 1
        got = sk.restore_task(
            base, load_file(tmp_path / "merged.safetensors"), load_file(tmp_path / "mask.safetensors")
        )
        want = sk.merge(base, tuned, method="tall_mask", task=task, mask_lambda=lambdas)
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            assert torch.equal(got[name], tensor), (task, name)
        assert not torch.equal(got["a.weight"], base["a.weight"])


def test_a_mask_that_does_not_fit_is_refused() -> None:
    base, tuned = models(torch.float32)
    merged, masks = sk.tall_masks(base, tuned)
    with pytest.raises(InputError, match=r"masks: 'a.weight': torch.uint8 \[1\], but uint8 \[18\] is needed"):
        sk.restore_task(base, merged, {**masks[0], "a.weight": masks[0]["b"]})
    with pytest.raises(InputError, match=r"masks: 'x': .*no such entry"):
        sk.restore_task(base, merged, {"x": masks[0]["b"]})
    with pytest.raises(sk.InputError, match=r"got a list; give one of them: masks\[t\]"):
        sk.restore_task(base, merged, masks)


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_wrappers_are_taken_off(prefix: str) -> None:
    base, tuned = models(torch.float32)
    merged, masks = sk.tall_masks(base, tuned)
    want = sk.restore_task(base, merged, masks[1])
    wrapped = {"state_dict": {prefix + name: tensor for name, tensor in base.items()}}
    whole, own = sk.tall_masks(wrapped, tuned)
    for given, prefixed, mask in (
        (wrapped, whole, own[1]),
        (base, whole, masks[1]),
        (wrapped, merged, own[1]),
        (wrapped, {"state_dict": whole}, own[1]),
    ):
        got = sk.restore_task(given, prefixed, mask)
        assert list(got) == list(whole if prefixed is not merged else merged)
        assert all(torch.equal(one, other) for one, other in zip(got.values(), want.values(), strict=True))


def test_masks_of_entries_that_alone_look_wrapped() -> None:
    base = {"module.a": torch.zeros(3), "b": torch.zeros(3)}
    got = sk.restore_task(
        base, {name: torch.ones(3) for name in base}, {"module.a": torch.tensor([0xA0], dtype=torch.uint8)}
    )
    assert got["module.a"].tolist() == [1, 0, 1]


def test_a_base_that_does_not_fit_is_refused() -> None:
    base, tuned = models(torch.float32)
    merged, masks = sk.tall_masks(base, tuned)
    lacking = {name: tensor for name, tensor in base.items() if name != "a.weight"}
    with pytest.raises(InputError, match=r"base: 'a.weight': no such entry, but merged has shape \[13, 11\]"):
        sk.restore_task(lacking, merged, masks[0])
    with pytest.raises(InputError, match=r"base: 'a.weight': shape \[11\], but merged has shape \[13, 11\]"):
        sk.restore_task({**base, "a.weight": base["a.weight"][0]}, merged, masks[0])
