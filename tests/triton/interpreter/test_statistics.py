"""Ranges, tier-B sums and the first bad value: every bit that of the reference, many tensors per launch."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kernel_operands import SIZES, SPECIAL, Operand, same_floats, values

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton import leaf_sums, sources
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.leaf_sums import launch_fold, launch_leaf_sums, launch_ranges_and_leaf_sums
from sta_kernels.kernels.triton.statistics import fits_cache, launch_first_nonfinite, launch_ranges

# Overflow and NaN are among the operands, and the interpreter is NumPy.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cpu")
REFERENCE = NumpyBackend()
BLOCKS = LaunchConfig(block=128, chunk=256, warps=1)
LEAVES = LaunchConfig(block=64, chunk=8192, warps=1)
F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64
# Measure, dtype of the importance, dtype of the weight, elements by which they are off the 16-byte grid.
SIGNATURES = [
    *(("lp", dtype, F32, shift) for dtype, shift in ((F32, 0), (BF16, 1), (F16, 3), (F64, 0))),
    *(("amp", F32, dtype, shift) for dtype, shift in ((F32, 1), (BF16, 0))),
    *(("lp_amp", importance, theta, 0) for importance, theta in ((F32, BF16), (F16, F64))),
]


def source(
    rng: np.random.Generator, measure: str, importance: DType, theta: DType, size: int, shift: int, special: float = 0.0
) -> ImportanceSource:
    """Random operands of one tensor, both present whatever the measure reads."""
    operands = [values(rng, dtype, size, special=special, shift=shift) for dtype in (importance, theta)]
    return ImportanceSource(measure, *(operand.buffer() for operand in operands))


def stored(array: np.ndarray) -> ImportanceSource:
    """A float32 importance."""
    return ImportanceSource("lp", Buffer.from_numpy(np.asarray(array, np.float32)))


def expected(tensors: list[ImportanceSource]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The reference's ranges and leaf sums."""
    minmax = np.tile(np.array((np.inf, -np.inf), np.float32), (len(tensors), 1))
    leaves = [np.full(-(-tensor.size // 4096), np.nan) for tensor in tensors]
    REFERENCE.ranges(tensors, minmax, leaves, threads=1)
    return minmax, leaves


def check_ranges(tensors: list[ImportanceSource], config: LaunchConfig | None = BLOCKS) -> None:
    """Hold a launch against the reference."""
    assert same_floats(launch_ranges(DEVICE, tensors, config=config).numpy(), expected(tensors)[0])


@pytest.mark.parametrize("special", [0.0, 0.02])
def test_ranges_of_every_signature_in_one_call(special: float) -> None:
    rng = np.random.default_rng(1)
    tensors = [
        source(rng, *signature[:3], size, signature[3], special)
        for size, signature in zip(itertools.cycle((1000, 65, 7)), SIGNATURES * 2, strict=False)
    ]
    check_ranges(tensors)


@pytest.mark.parametrize("config", [BLOCKS, None], ids=["small", "chosen"])
def test_ranges_of_every_size(config: LaunchConfig | None) -> None:
    rng = np.random.default_rng(2)
    check_ranges([source(rng, "lp", F32, F32, size, 0) for size in (*SIZES[:-1], 127, 128, 129, 255, 256, 257)], config)


@pytest.mark.parametrize("place", [0, 255, 299])
@pytest.mark.parametrize("special", SPECIAL, ids=repr)
def test_ranges_of_one_special_value(special: np.float32, place: int) -> None:
    values_around = [np.full(300, other, np.float32) for other in (0.0, -0.0)]
    for array in values_around:
        array[place] = special
    check_ranges([stored(array) for array in values_around])


def test_ranges_of_special_values_alone() -> None:
    check_ranges([stored([value]) for value in SPECIAL] + [stored(SPECIAL[np.isfinite(SPECIAL)]), stored([])])


def test_ranges_that_share_a_slot() -> None:
    parts = [stored([3, 1]), stored([7, -0.0]), stored([5]), stored([0.0, -2])]
    found = launch_ranges(DEVICE, parts, slots=[0, 1, 0, 1], config=BLOCKS).numpy()
    assert found.tolist() == [[1, 5], [-2, 7]]


def test_no_tensor_at_all() -> None:
    assert launch_ranges(DEVICE, []).shape == (0, 2)
    assert launch_leaf_sums(DEVICE, []) == []
    assert launch_fold(DEVICE, []).shape == (0,)
    assert launch_first_nonfinite(DEVICE, []).shape == (0,)


def test_leaf_sums_and_ranges_of_every_signature() -> None:
    rng = np.random.default_rng(3)
    tensors = [source(rng, *signature[:3], 4200, signature[3]) for signature in SIGNATURES]
    ranges, leaves = expected(tensors)
    found = launch_leaf_sums(DEVICE, tensors[:1], config=LEAVES)
    assert same_floats(found[0].numpy(), leaves[0])
    both, found = launch_ranges_and_leaf_sums(DEVICE, tensors, config=LEAVES)
    assert same_floats(both.numpy(), ranges)
    assert all(same_floats(ours.numpy(), theirs) for ours, theirs in zip(found, leaves, strict=True))


@pytest.mark.parametrize("config", [LEAVES, None], ids=["small", "chosen"])
def test_leaf_sums_of_every_size(config: LaunchConfig | None) -> None:
    rng = np.random.default_rng(4)
    tensors = [source(rng, "lp", F32, F32, size, 0, 0.001) for size in (0, 1, 33, 4095, 4096, 4097, 9000)]
    tensors += [stored(np.full(size, -0.0)) for size in (7, 4096)]  # of zeros the sum is +0, and the range −0
    ranges, leaves = expected(tensors)
    both, found = launch_ranges_and_leaf_sums(DEVICE, tensors, config=config)
    assert same_floats(both.numpy(), ranges)
    for ours, theirs in zip(found, leaves, strict=True):
        assert same_floats(ours.numpy(), theirs)


def test_leaf_sums_depend_on_the_order() -> None:
    rng = np.random.default_rng(5)
    array = (rng.standard_normal(4096) * 10.0 ** rng.integers(-12, 12, 4096)).astype(np.float32)
    found = launch_leaf_sums(DEVICE, [stored(array)], config=LEAVES)[0].numpy()
    assert same_floats(found, expected([stored(array)])[1][0])
    assert found[0] != np.cumsum(array, dtype=np.float64)[-1]  # else the test shows nothing


@pytest.mark.parametrize("block", [16, 32, None])
def test_fold(block: int | None) -> None:
    rng = np.random.default_rng(6)
    sizes = (0, 1, 2, 3, 5, 15, 16, 17, 31, 33, 255, 256, 257, 600)
    leaves = [rng.standard_normal(size) * 10.0 ** rng.integers(-9, 9, size) for size in sizes]
    leaves += [np.array([-0.0]), np.array([-0.0] * 3), np.array([1.0, np.inf, -np.inf]), np.array([np.nan, 1.0])]
    config = None if block is None else LaunchConfig(block, block, 1)
    found = launch_fold(DEVICE, [torch.from_numpy(leaf) for leaf in leaves], config=config).numpy()
    with np.errstate(invalid="ignore"):
        assert same_floats(found, np.array([REFERENCE.fold(leaf) for leaf in leaves]))


def test_fold_of_more_than_one_program_adds() -> None:
    leaves = np.random.default_rng(7).standard_normal(2500)
    assert leaf_sums._FOLD.chunk < len(leaves)
    found = launch_fold(DEVICE, [torch.from_numpy(leaves)]).numpy()
    assert same_floats(found, np.array([REFERENCE.fold(leaves)]))


@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=lambda dtype: dtype.name)
def test_first_nonfinite(dtype: DType) -> None:
    rng = np.random.default_rng(8)
    places: list[tuple[int, ...]] = [(), (0,), (699,), (127,), (128,), (256, 255), (300, 650, 299), (640,), (5, 640)]
    operands = []
    for index, bad in enumerate(places):
        operand = values(rng, dtype, 700, shift=index % 2)
        special = Operand(dtype, 3)
        special.array[:] = values_of(dtype, (np.nan, np.inf, -np.inf))
        for place in bad:
            operand.array[place] = special.array[(index + place) % 3]
        operands.append(operand)
    operands += [values(rng, dtype, size) for size in (0, 1, 63)]
    found = launch_first_nonfinite(DEVICE, [operand.buffer() for operand in operands], config=BLOCKS)
    assert found.tolist() == [min(bad, default=-1) for bad in places] + [-1] * 3
    for operand, index in zip(operands, found.tolist(), strict=True):
        assert REFERENCE.first_nonfinite([operand.buffer()]) == (None if index < 0 else (0, index))


def values_of(dtype: DType, numbers: tuple[float, ...]) -> np.ndarray:
    """Numbers as the dtype stores them."""
    wide = np.array(numbers, np.float32)
    if dtype is BF16:
        return (wide.view(np.uint32) >> 16).astype(np.uint16)
    return wide.astype(dtype.numpy)


def test_first_nonfinite_is_of_the_float32_values() -> None:
    finite = np.array([3.4e38, 1.0, -3.5e38, np.inf])
    found = launch_first_nonfinite(DEVICE, [Buffer.from_numpy(finite), Buffer.from_numpy(np.array([3.40282357e38]))])
    assert found.tolist() == [2, 0]  # the last value rounds to infinity


def test_what_fits_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most half of a GPU's cache; main memory has none that a launch could ask for."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=80))
    ten, eleven = Buffer.from_numpy(np.ones(10, np.float32)), Buffer.from_numpy(np.ones(11, np.float32))
    assert fits_cache(torch.device("cuda"), [ten])
    assert not fits_cache(torch.device("cuda"), [eleven])
    assert not fits_cache(torch.device("cpu"), [ten])


def test_what_cannot_be_launched() -> None:
    array = np.ones((4, 4), np.float32)
    whole, strided = Buffer.from_numpy(array), Buffer.from_numpy(array.T[:, :2])
    with pytest.raises(ValueError, match="contiguous"):
        launch_ranges(DEVICE, [ImportanceSource("lp", strided)])
    with pytest.raises(ValueError, match="missing"):
        launch_leaf_sums(DEVICE, [ImportanceSource("lp_amp", whole)])
    with pytest.raises(ValueError, match="differ in size"):
        launch_ranges(DEVICE, [ImportanceSource("lp_amp", whole, whole.slice(0, 4))])
    with pytest.raises(ValueError, match="expected one of lp"):
        launch_ranges(DEVICE, [ImportanceSource("fisher", whole)])


def test_chosen_launches_read_16_bytes_per_thread() -> None:
    for dtypes in itertools.product((F32, BF16, F16, F64, None), repeat=2):
        if any(dtypes):
            signature = sources.Signature("lp", *dtypes, True)
            for choose in (sources.reduction_config, leaf_sums.leaf_config):
                for n_elements in (1, 10**5, 10**9):
                    config = choose(signature, n_elements)
                    assert config.per_thread * min(signature.itemsizes) >= 16
                    assert config.chunk % config.block == 0
