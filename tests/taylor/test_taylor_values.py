"""Values of the importance: equal to a plain loop to the last bit, and to the paper's equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from taylor_models import Case, gradients, plain_importance, same_bits
from torch import Tensor, nn

import sta_kernels as sk
from sta_kernels.taylor import arithmetic


def run(case: Case, measure: str = "lp", **options: object) -> sk.TaylorImportance:
    with sk.TaylorImportance(case.model, measure, **options) as importance:  # type: ignore[arg-type]
        for inputs, target in case.samples:
            case.loss(case.model(inputs), target).backward()
    return importance


@pytest.mark.parametrize("measure", ["lp", "lp_amp"])
def test_hooks_give_the_bits_of_a_plain_loop(case: Case, measure: str) -> None:
    expected = plain_importance(case, measure)
    importance = run(case, measure)
    assert same_bits(importance.state_dict(), expected)
    assert importance.samples == len(case.samples)


@pytest.mark.parametrize("measure", ["lp", "lp_amp"])
def test_the_function_gives_the_bits_of_a_plain_loop(case: Case, measure: str) -> None:
    expected = plain_importance(case, measure)
    importance = sk.importance(case.model, case.samples, case.loss, measure=measure)
    assert same_bits(importance, expected)
    assert (importance.measure, importance.samples) == (measure, len(case.samples))


def test_equation_12_taken_literally(case: Case) -> None:
    importance = run(case).state_dict()
    rows = gradients(case)
    for name, param in case.model.named_parameters(remove_duplicate=False):
        if param.requires_grad:
            literal = sum((param.detach().double() * row[name].double()).abs() for row in rows)
            torch.testing.assert_close(importance[name].double(), literal, rtol=1e-6, atol=1e-30)


def test_amplitude_is_the_squared_weight_and_reads_no_gradient(case: Case) -> None:
    with sk.TaylorImportance(case.model, "amp") as importance:
        pass
    expected = {
        name: param.detach() * param.detach()
        for name, param in case.model.named_parameters(remove_duplicate=False)
        if param.requires_grad
    }
    assert same_bits(importance.state_dict(), expected)
    assert same_bits(sk.importance(case.model, measure="amp"), expected)
    assert importance.samples == 0


def test_worked_example() -> None:
    theta = nn.Module()
    theta.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    per_sample = torch.tensor([[0.5, -0.25, 1.0], [-0.5, 0.75, 1.0]])
    for measure, expected in (("lp", [1.0, 2.0, 1.0]), ("lp_amp", [1.0, 8.0, 0.25])):
        with sk.TaylorImportance(theta, measure) as importance:
            for g in per_sample:
                (theta.w * g).sum().backward()
        assert importance.state_dict()["w"].tolist() == expected
    with sk.TaylorImportance(theta) as batched:
        (theta.w * per_sample).sum().backward()
    assert batched.state_dict()["w"].tolist() == [0.0, 1.0, 1.0], "what a batched loss gives, unseen"


def test_names_of_the_image_model(image_case: Case) -> None:
    importance = run(image_case).state_dict()
    present = {name for name, param in image_case.model.named_parameters() if param.requires_grad}
    assert set(importance) == present
    assert "head.weight" not in importance, "frozen: absent"
    assert not importance["clip.logit_scale"].any(), "unused: zero"
    assert not importance["clip.token_embedding.weight"].any()
    for name in ("clip.visual.class_embedding", "clip.visual.proj"):
        assert importance[name].any(), "a raw parameter"
    in_proj = importance["clip.visual.transformer.resblocks.0.attn.in_proj_weight"]
    assert in_proj.shape == (96, 32)
    assert in_proj.any()


def test_a_tied_weight_sums_its_uses_before_the_absolute_value() -> None:
    model = nn.Module()
    model.a = nn.Linear(1, 1, bias=False)
    model.b = nn.Linear(1, 1, bias=False)
    model.b.weight = model.a.weight
    nn.init.constant_(model.a.weight, -0.5)
    x = torch.tensor([[3.0]])
    with sk.TaylorImportance(model) as importance:
        (model.a(x) * 2 - model.b(x)).sum().backward()  # 6 − 3; apart, they would give 9
        (model.a(x) - model.a(x) * 3).sum().backward()  # one module called twice: 3 − 9; apart, 12
    found = importance.state_dict()
    assert list(found) == ["a.weight", "b.weight"]
    assert found["a.weight"] is found["b.weight"]
    assert found["a.weight"].item() == 0.5 * (3 + 6)
    assert importance.samples == 2


def test_sparse_gradients_sum_repeated_rows_before_the_absolute_value() -> None:
    weights = torch.tensor([[1.0, -1.0], [2.0, 3.0], [5.0, 7.0]])
    signs = torch.tensor([[1.0], [-1.0], [4.0]])
    found = []
    for sparse in (False, True):
        embedding = nn.Embedding.from_pretrained(weights.clone(), freeze=False, sparse=sparse)
        with sk.TaylorImportance(embedding) as importance:
            (embedding(torch.tensor([0, 0, 2])) * signs).sum().backward()
        found.append(importance.state_dict()["weight"])
    assert found[0].tolist() == [[0.0, 0.0], [0.0, 0.0], [20.0, 28.0]]
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("model_dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("measure", ["lp", "lp_amp", "amp"])
def test_other_dtypes_are_converted_on_reading(model_dtype: torch.dtype, measure: str) -> None:
    torch.manual_seed(2)
    model = nn.Linear(70, 65).to(model_dtype)
    rows = torch.randn(5, 65, 70).to(model_dtype)
    with sk.TaylorImportance(model, measure) as importance:
        for row in rows:
            (model.weight * row).sum().backward()
    theta = model.weight.detach().float()
    total = torch.zeros(65, 70)
    for row in rows:
        total += row.float().abs()
    lp = theta.abs() * total
    expected = {"lp": lp, "lp_amp": lp * (theta * theta), "amp": theta * theta}[measure]
    assert torch.equal(importance.state_dict()["weight"], expected)


def test_a_bfloat16_accumulator_is_rounded_at_each_sample() -> None:
    torch.manual_seed(3)
    model = nn.Linear(33, 31, bias=False)
    rows = torch.randn(20, 31, 33)
    with sk.TaylorImportance(model, dtype=torch.bfloat16) as importance:
        for row in rows:
            (model.weight * row).sum().backward()
    total = torch.zeros(31, 33, dtype=torch.bfloat16)
    for row in rows:
        total = (total.float() + row.abs()).bfloat16()
    found = importance.state_dict()["weight"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, (model.weight.detach().abs() * total.float()).bfloat16())


def test_statistics_are_those_of_the_stored_values(case: Case) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        result = run(case, dtype=dtype).result
        assert list(result.statistics) == list(result)
        for name, values in result.items():
            summary = result.statistics[name]
            assert (summary.min, summary.max) == (values.min().item(), values.max().item())
            assert summary.mean == pytest.approx(values.double().mean().item(), rel=1e-6)
            assert summary.mean == float(np.float32(summary.mean))


def test_an_empty_and_a_scalar_parameter() -> None:
    model = nn.Module()
    model.empty = nn.Parameter(torch.zeros(0, 3))
    model.scale = nn.Parameter(torch.tensor(-2.0))
    with sk.TaylorImportance(model) as importance:
        (model.scale * 3 + model.empty.sum()).backward()
    found = importance.state_dict()
    assert found["scale"].shape == ()
    assert found["scale"].item() == 6
    assert found["empty"].shape == (0, 3)
    assert importance.result.statistics["empty"].mean == 0


def test_subnormals_survive_a_caller_that_flushes_them() -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.full((5,), 1e-30))
    gradient = torch.full((5,), 1e-12)
    assert torch.set_flush_denormal(True)
    try:
        with sk.TaylorImportance(model) as importance:
            model.w.backward(gradient)
        summary = importance.result.statistics["w"]
    finally:
        torch.set_flush_denormal(False)
    expected = (model.w.detach() * gradient)[0].item()
    assert 0 < expected < torch.finfo(torch.float32).tiny
    assert importance.state_dict()["w"].tolist() == [expected] * 5
    assert (summary.min, summary.max, summary.mean) == (expected, expected, expected)


def test_a_parameter_in_another_memory_order() -> None:
    torch.manual_seed(4)
    plain = nn.Conv2d(6, 5, 3)
    channels_last = nn.Conv2d(6, 5, 3).to(memory_format=torch.channels_last)
    channels_last.load_state_dict(plain.state_dict())
    g = torch.randn(5, 6, 3, 3)
    found = []
    for model in (plain, channels_last):
        with sk.TaylorImportance(model) as importance:
            (model.weight * g).sum().backward()
        found.append(importance.state_dict()["weight"])
    assert not channels_last.weight.is_contiguous()
    assert found[1].is_contiguous()
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_that_no_kernel_reaches_gives_the_same_bits(
    image_case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_kernels = run(image_case, dtype=dtype).result

    def unreachable(*args: object, **kwargs: object) -> None:
        raise AssertionError("a kernel was given memory that it cannot reach")

    hidden = _Hidden()
    monkeypatch.setattr(arithmetic, "kernels_reach", hidden.reached)
    monkeypatch.setattr(type(arithmetic.get_backend()), "taylor_accumulate", unreachable)
    without = run(image_case, dtype=dtype).result
    assert hidden.asked > len(without), "the other path was taken"
    assert all(torch.equal(without[name], with_kernels[name]) for name in with_kernels)
    assert without.statistics == with_kernels.statistics


class _Hidden:
    """Memory that no kernel reaches, for a machine that has only one kind."""

    asked = 0

    def reached(self, tensor: Tensor) -> bool:
        self.asked += 1
        return False


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", [None, "cpu"], ids=["beside", "offloaded"])
def test_gpu_accumulators_give_the_bits_of_their_gradients(device: str | None) -> None:
    torch.manual_seed(5)
    model = nn.Linear(70, 65, bias=False).cuda()
    rows = torch.randn(9, 65, 70, device="cuda")
    with sk.TaylorImportance(model, "lp_amp", device=device) as importance:
        for row in rows:
            (model.weight * row).sum().backward()
    found = importance.state_dict()["weight"]
    assert found.device.type == (device or "cuda")
    total, theta = torch.zeros(65, 70), model.weight.detach().cpu()
    for row in rows.cpu():
        total += row.abs()
    assert torch.equal(found.cpu(), theta.abs() * total * (theta * theta))
