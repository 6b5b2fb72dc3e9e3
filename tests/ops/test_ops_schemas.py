"""Registration: every op under ``torch.library.opcheck``, and what an op without a kernel says."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sta_kernels import ops
from sta_kernels.errors import RunError
from sta_kernels.kernels import ENVIRONMENT_VARIABLE
from sta_kernels.ops._backends import host_backend
from sta_kernels.ops._schemas import LIBRARY


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def counts(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.int64)


BASE = torch.nn.Parameter(floats(4, 6))
MODELS = [floats(4, 6, seed=1), floats(6, 4, seed=2).t(), floats(4, 6, seed=3).bfloat16()]
SCORES = [floats(4, 6, seed=4), floats(4, 12, seed=5)[:, ::2], floats(4, 6, seed=6).half()]
KNOBS = (0.7, None, "lp", "drop", [1.0, 0.5, 2.0], 0.4)
TABLE = torch.tensor([[0.0, 1.0]] * 3)

SAMPLES = {
    "sta_merge": [
        (BASE, MODELS, SCORES, None, *KNOBS),
        (BASE, MODELS, SCORES, TABLE, 0.7, 2, "lp_amp", "first", [1.0] * 3, 1.0),
        (BASE, MODELS, [], None, 0.0, None, "amp", "all", [1.0] * 3, 1.0),
        (floats(0), [floats(0)], [floats(0)], None, 0.7, None, "lp", "drop", [1.0], 1.0),
        (floats(), [floats(seed=1)] * 2, [floats(seed=2)] * 2, None, 0.7, None, "lp", "drop", [1.0] * 2, 1.0),
    ],
    "sta_merge_out": [
        (BASE, MODELS, SCORES, None, *KNOBS, torch.empty(4, 6), counts(3)),
        (BASE, MODELS, SCORES, TABLE, *KNOBS, torch.empty(6, 4).t(), counts(0)),
        (BASE, MODELS, [], None, 0.7, 1, "amp", "all", [1.0] * 3, 1.0, torch.empty(4, 6).double(), counts(4)),
    ],
    "sta_forget": [
        (BASE, BASE, MODELS[0], SCORES[0], 0.7, "lp", 1.0, 1.0),
        (MODELS[1], BASE, MODELS[0], None, 0.3, "amp", 0.5, 2.0),
    ],
    "sta_forget_out": [
        (MODELS[1], BASE, MODELS[0], SCORES[1], 0.7, "lp_amp", 1.0, 1.0, torch.empty(4, 6).half(), counts(1)),
        (MODELS[1], BASE, MODELS[0], SCORES[1], 0.7, "lp", 1.0, 1.0, torch.empty(4, 6), counts(0)),
    ],
    "minmax": [(SCORES,), ([floats(0, 3), floats(seed=9)],)],
    "normaliser": [(SCORES, [1, 1, 1], "minmax"), (SCORES, [2, 1], "mean")],
    "order_statistic": [(BASE, 7), (SCORES[2], 1)],
    "taylor_accumulate_": [(torch.zeros(4, 6), MODELS[1]), (torch.zeros(4, 6).bfloat16(), MODELS[0])],
    "taylor_finish": [(SCORES[1], BASE, "lp"), (SCORES[2], BASE, "lp_amp"), (SCORES[0], BASE, "amp")],
    "taylor_finish_out": [(SCORES[1], BASE, "lp", torch.empty(4, 6).bfloat16())],
    "linear": [(BASE, MODELS, [1.0, 0.5, 2.0], True), (None, MODELS, [1.0] * 3, False)],
    "linear_out": [(BASE, MODELS, [1.0] * 3, True, torch.empty(4, 6).half())],
    "task_arithmetic": [(BASE, MODELS, [1.0, 0.5, 2.0], 0.4, False)],
    "merge_tensor": [
        (BASE, MODELS, [], "ties", '{"density": 0.5}', ""),
        (None, MODELS, SCORES, "fisher", "{}", ""),
    ],
    "merge_tensor_out": [(BASE, MODELS, [], "dare_linear", '{"density": 0.5}', "w", torch.empty(4, 6).double())],
    "task_arithmetic_out": [(BASE, MODELS, [1.0] * 3, 0.4, True, torch.empty(4, 6))],
}
CASES = [
    pytest.param(name, sample, id=f"{name}-{i}") for name, group in SAMPLES.items() for i, sample in enumerate(group)
]


def test_every_op_has_samples():
    assert {f"sta_kernels::{name}" for name in SAMPLES} == LIBRARY._op_defs


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_opcheck(name, sample):
    results = torch.library.opcheck(getattr(torch.ops.sta_kernels, name).default, sample)
    assert len(results) == 4
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_no_kernel_for_a_device_is_said_plainly(name, sample):
    """A device whose tensors carry no data here: arguments are checked, then the refusal names the op."""
    kernel = getattr(torch.ops.sta_kernels, name).default
    with pytest.raises(NotImplementedError, match=f"sta_kernels::{name} has no kernel for tensors on this device"):
        kernel._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *sample)


def test_fake_tensors_give_shapes_without_computing():
    with FakeTensorMode():
        base = torch.empty(10**6, 10**4, device="cuda", dtype=torch.bfloat16)
        merged = ops.sta_merge(base, [base] * 3, [base] * 3)
        assert merged.shape == base.shape
        assert merged.device == base.device
        assert ops.normaliser([base] * 3).shape == (3, 2)


def test_meta_tensors_stay_meta():
    base = torch.empty(3, 4, device="meta")
    assert ops.sta_merge(base, [base] * 2, [base] * 2).device.type == "meta"


def test_kernels_are_registered_for_main_memory_and_gpus():
    for name in SAMPLES:
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"sta_kernels::{name}", key)


def test_a_backend_of_main_memory_is_refused_on_a_gpu(monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "native")
    with pytest.raises(
        RunError, match="STA_KERNELS_BACKEND=native asks for the native backend, which serves the CPU only"
    ):
        host_backend(torch.device("cuda", 0))
