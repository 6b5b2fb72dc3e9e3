"""TSV-C on state dicts: what is stored, and that it restores what the method gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels as sk

State = dict[str, torch.Tensor]


def pair(dtype: torch.dtype = torch.float32) -> tuple[State, State]:
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    base = {"a.weight": normal(40, 24), "a.bias": normal(40), "conv": normal(3, 2, 2, 2), "b.weight": normal(7, 50)}
    task = {name: (value + 0.1 * normal(*value.shape)).to(dtype) for name, value in base.items()}
    start = {name: value.to(dtype) for name, value in base.items()}
    start |= {"steps": torch.tensor([3]), "bn.running_mean": normal(4).to(dtype), "bn.running_var": torch.ones(4)}
    task |= {"steps": torch.tensor([7]), "bn.running_mean": normal(4).to(dtype), "bn.running_var": torch.ones(4) * 2}
    return start, task


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ratio", [0.25, 1, 0])
def test_a_file_restores_what_the_method_gives(tmp_path: Path, dtype: torch.dtype, ratio: float):
    base, task = pair(dtype)
    with pytest.warns(UserWarning, match="'steps' differs from base, whose value is kept"):
        save_file(sk.compress(base, task, ratio), tmp_path / "task.safetensors")
    restored = sk.decompress(base, load_file(tmp_path / "task.safetensors"))
    with pytest.warns(UserWarning, match="steps"):
        merged = sk.merge(base, [task], method="tsv_c", task=0, ratio=ratio)
    assert list(restored) == list(base)
    for name, want in merged.items():
        assert torch.equal(restored[name], want), name
        assert restored[name].dtype == base[name].dtype
    assert restored["steps"].tolist() == [3]
    assert torch.equal(restored["bn.running_var"], base["bn.running_var"])


def test_what_is_stored():
    base, task = pair()
    task["steps"] = base["steps"]
    compressed = sk.compress(base, task, 0.25, exclude="conv")
    shapes = {name: list(value.shape) for name, value in compressed.items()}
    assert shapes == {
        "a.weight:U": [40, 6], "a.weight:S": [6], "a.weight:V": [6, 24],
        "a.bias": [40],
        "b.weight:U": [7, 1], "b.weight:S": [1], "b.weight:V": [1, 50],
    }  # fmt: skip
    restored = sk.decompress(base, compressed)
    assert torch.equal(restored["conv"], base["conv"])
    assert restored["conv"].data_ptr() != base["conv"].data_ptr()


def test_ties_and_wrappers():
    base, task = pair()
    tied = {"module.a": base["a.weight"], "module.b": base["a.weight"]}
    compressed = sk.compress(tied, {"a": task["a.weight"]}, 1)
    assert list(compressed) == ["a:U", "a:S", "a:V"]
    restored = sk.decompress(tied, compressed)
    assert list(restored) == ["module.a", "module.b"]
    assert restored["module.a"] is restored["module.b"]
    torch.testing.assert_close(restored["module.a"], task["a.weight"], atol=1e-5, rtol=0)


def test_refusals():
    base, task = pair()
    task["steps"] = base["steps"]
    good = sk.compress(base, task, 0.5)
    with pytest.raises(sk.InputError, match=r"ratio: expected a number in \[0, 1\], got 2"):
        sk.compress(base, task, 2)
    with pytest.raises(sk.InputError, match=r"finetuned: no entry 'a.bias'"):
        sk.compress(base, {name: value for name, value in task.items() if name != "a.bias"}, 0.5)
    for wrong, message in (
        ({"a.weight:S": None}, r"'a.weight' lacks a factor; it needs a.weight:U"),
        ({"a.weight:S": torch.ones(3)}, r"'a.weight' has factors of shapes \[\[40, 12\], \[3\], \[12, 24\]\]"),
        ({"a.bias": torch.ones(3)}, r"'a.bias' has shape \[3\], the base has \[40\]"),
        ({"c": torch.ones(3)}, r"'c' belongs to no entry"),
    ):
        given = {name: value for name, value in {**good, **wrong}.items() if value is not None}
        with pytest.raises(sk.InputError, match=message):
            sk.decompress(base, given)
