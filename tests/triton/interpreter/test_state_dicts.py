"""State dicts in memory on Triton's kernels: the native bits, in few launches, with few waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import sta_kernels as sk
from sta_kernels.errors import InputError
from sta_kernels.kernels.triton import backend as triton_backend
from sta_kernels.kernels.triton import calls, reductions

N_TENSORS = 20
CASES: dict[str, dict[str, Any]] = {
    "sta": {},
    "keep": {"keep": 2, "ties": "all", "lambda_": 0.7, "weight": [1, 0.5, 2], "out_dtype": torch.float16},
    "mean": {"normalise": "mean", "out_dtype": torch.float32},
    "amp": {"measure": "amp"},
    "lp_amp": {"measure": "lp_amp", "split": {"t1*": 2}},
    "linear": {"method": "linear"},
    "task_arithmetic": {"method": "task_arithmetic", "lambda_": 0.4, "out_dtype": torch.float64},
}
LAUNCHES = {
    "sta": {"launch_first_nonfinite": 1, "launch_ranges": 1, "launch_sta_merge": 1},
    "keep": {"launch_first_nonfinite": 2, "launch_ranges": 1, "launch_sta_merge": 1},
    "mean": {"launch_first_nonfinite": 1, "launch_ranges": 1, "launch_ranges_and_leaf_sums": 1, "launch_sta_merge": 1},
    "amp": {"launch_first_nonfinite": 1, "launch_ranges": 1, "launch_sta_merge": 1},
    "lp_amp": {"launch_first_nonfinite": 1, "launch_ranges": 2, "launch_sta_merge": 1},
    "linear": {"launch_first_nonfinite": 1, "launch_weighted_sum": 1},
    "task_arithmetic": {"launch_first_nonfinite": 1, "launch_weighted_sum": 1},
}


class Model:
    """A base of bfloat16 entries of many shapes, three models, float32 importances."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)

        def entries(scale: float) -> dict[str, torch.Tensor]:
            shapes = {f"t{i}": (4 + i % 2 * 2, 3 + i % 4) for i in range(N_TENSORS)}
            return {name: torch.randn(shape, generator=generator) * scale for name, shape in shapes.items()}

        self.base = {name: x.bfloat16() for name, x in entries(0.5).items()}
        self.models = [
            {name: (self.base[name].float() + x).bfloat16() for name, x in entries(0.1).items()} for _ in range(3)
        ]
        self.importances = [{name: (x.abs() * 8).round() / 8 for name, x in entries(1.0).items()} for _ in range(3)]

    def merge(self, counts: dict[str, list[int]], **options: Any) -> dict[str, torch.Tensor]:
        stored = options.get("method", "sta") == "sta" and options.get("measure") != "amp"
        return sk.merge(
            self.base, self.models, importances=self.importances if stored else None, counts=counts, **options
        )


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each family of kernels was launched on the way through the backend."""
    counted: Counter[str] = Counter()

    def count(name: str, launch: Callable[..., Any]) -> None:
        def counting(*arguments: Any, **more: Any) -> Any:
            counted[name] += 1
            return launch(*arguments, **more)

        monkeypatch.setattr(module, name, counting)

    for module in (triton_backend, reductions):
        for name in [name for name in vars(module) if name.startswith("launch_")]:
            count(name, getattr(module, name))
    return counted


def on(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STA_KERNELS_BACKEND", backend)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.contiguous().reshape(-1).view(torch.uint8)

    assert list(one) == list(other)
    return all(one[n].dtype == other[n].dtype and torch.equal(as_bytes(one[n]), as_bytes(other[n])) for n in one)


@pytest.mark.parametrize("case", CASES)
def test_native_bits_in_few_launches(
    model: Model, case: str, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for backend in ("reference", "triton"):
        on(backend, monkeypatch)
        counts: dict[str, list[int]] = {}
        outcomes.append((model.merge(counts, **CASES[case]), counts))
    assert same_bits(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]
    assert dict(launches) == LAUNCHES[case]  # of twenty tensors


@pytest.mark.parametrize("options", [{"method": "della"}, {"method": "della_linear", "rescale": "keep_rate"}], ids=str)
def test_masks_of_one_entry_after_the_other(
    model: Model, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for backend in ("reference", "triton"):
        on(backend, monkeypatch)
        outcomes.append(model.merge({}, density=0.5, **options))
    assert same_bits(*outcomes)


@pytest.mark.parametrize("measure", ["lp", "amp"])
def test_forgetting_takes_few_launches_too(
    model: Model, measure: str, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    importance = model.importances[0] if measure == "lp" else None
    for backend in ("reference", "triton"):
        on(backend, monkeypatch)
        counts: dict[str, list[int]] = {}
        result = sk.forget(model.models[1], model.base, model.models[0], importance, measure=measure, counts=counts)
        outcomes.append((result, counts))
    assert same_bits(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]
    checks = {"launch_ranges": 1} if measure == "lp" else {}
    expected = {"launch_first_nonfinite": 1, "launch_order_statistic": 1, "launch_sta_forget": 1, **checks}
    assert dict(launches) == expected


def test_each_signature_is_one_launch_of_the_kernel(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only one call of the launching function: entries of two dtypes are two launches of the kernel itself."""
    from sta_kernels.kernels.triton import sta_merge

    grids: list[int] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            grids.append(grid[0])
            return kernel[grid]

    kernel = sta_merge._sta_merge_kernel
    monkeypatch.setattr(sta_merge, "_sta_merge_kernel", Kernel())
    on("triton", monkeypatch)
    mixed = Model()
    for states in (mixed.base, *mixed.models):
        for name in ("t3", "t4", "t5"):
            states[name] = states[name].float()
    mixed.merge({})
    assert len(grids) == 2
    assert sum(grids) >= N_TENSORS


def test_entries_that_are_laid_out_otherwise(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transposed, misaligned, scalar and empty entries; a model in another dtype; integers and aliases."""
    states = [dict(list(state.items())[:3]) for state in (model.base, *model.models, *model.importances)]
    for state in states:
        state["t0"] = state["t0"].t().contiguous().t()
        state["t1"] = torch.cat([state["t1"].reshape(-1)[:1], state["t1"].reshape(-1)])[1:].view(state["t1"].shape)
        state["scalar"], state["empty"] = state["t2"][0, 0].clone(), state["t2"][:0].clone()
        state["tied"] = state["t2"]
    states[2] = {name: tensor.float() for name, tensor in states[2].items()}
    for state in states[:4]:
        state["steps"] = torch.tensor([1, 2])
    outcomes = []
    for backend in ("reference", "triton"):
        on(backend, monkeypatch)
        counts: dict[str, list[int]] = {}
        outcomes.append((sk.merge(states[0], states[1:4], importances=states[4:], counts=counts, p=0.5), counts))
    assert same_bits(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]


@pytest.mark.parametrize(("case", "most"), [("sta", 7), ("linear", 1)])
def test_conversions_are_bounded(
    model: Model, case: str, most: int, launches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that wants models of one dtype converts those of a few tensors at a time; a sum converts none."""
    monkeypatch.setattr(calls, "COPIES", 1000)  # three models of up to 36 elements in float32: 144 to 432 bytes
    mixed = Model()
    mixed.models[1] = {name: tensor.float() for name, tensor in mixed.models[1].items()}
    outcomes = []
    for backend in ("reference", "triton"):
        on(backend, monkeypatch)
        outcomes.append(mixed.merge({}, **CASES[case]))
    assert same_bits(*outcomes)
    name = "launch_sta_merge" if case == "sta" else "launch_weighted_sum"
    assert launches[name] == most


def test_refusals_name_the_first_entry(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of all entries at once say what those entry by entry say."""
    few = ("t2", "t4", "t7", "t9")
    base, *models = ({name: state[name] for name in few} for state in (model.base, *model.models))
    importances = [{name: state[name] for name in few} for state in model.importances]
    importances[1]["t7"] = importances[1]["t7"].clone()
    importances[1]["t7"][1, 2] = importances[1]["t7"][3, 0] = -0.5
    nonfinite = dict(models[2], t9=models[2]["t9"].clone())
    nonfinite["t9"][2, 1] = float("nan")
    infinite = dict(models[0], t4=models[0]["t4"].clone())
    infinite["t4"][1, 1] = -float("inf")
    huge = dict(models[0], t4=torch.full_like(models[0]["t4"], 1e30))
    merges: list[tuple[str, Any, dict[str, Any]]] = [
        (r"importances\[1\]: 't7' goes down to -0.5", models, {"importances": importances}),
        (r"importances\[1\]: 't7' goes down to -0.5", models, {"importances": importances, "normalise": "mean"}),
        (r"finetuned\[1\]: 't9' is nan at \[2, 1\]", [models[0], nonfinite], {"method": "linear"}),
        (r"finetuned\[0\]: 't4' is -inf at \[1, 1\]", [infinite], {"method": "linear"}),
        (r"finetuned\[0\]: 't4': its importance \(amp\) overflows", [huge, models[1]], {"measure": "amp"}),
        (r"'t4' overflows float16 at \[0, 0\]", [huge], {"method": "linear", "out_dtype": torch.float16}),
        (
            r"'t4' overflows float16 at \[0, 0\]",
            [huge],
            {"method": "linear", "out_dtype": torch.float16, "exclude": "t4"},
        ),
    ]
    for message, given, options in merges:
        for backend in ("reference", "triton"):
            on(backend, monkeypatch)
            with pytest.raises(InputError, match=message):
                sk.merge(huge if "exclude" in options else base, given, **options)
