"""The ops on a GPU: values against the reference, then what only a GPU has: streams, graphs, large memory."""

from __future__ import annotations

import pytest
import torch
from device_operands import Operands, reference, same
from large_cases import *  # noqa: F403
from op_cases import *  # noqa: F403

from sta_kernels import ops

SHAPE = (301, 1003)


def test_no_op_waits_for_the_device(device: torch.device):
    o = Operands(device, SHAPE, 4, torch.bfloat16, torch.float32, positive=True)
    kept = torch.zeros(5, dtype=torch.int64, device=device)
    total = torch.zeros(SHAPE, device=device)

    def everything() -> None:
        table = ops.normaliser(o.importances)
        ops.sta_merge(*o, normaliser=table, kept=kept, weight=[1.0, 0.5, 2.0, 1.0], lambda_=0.5)
        ops.sta_merge(*o)
        ops.normaliser(o.importances, "mean")
        ops.minmax(o.importances)
        ops.order_statistic(o.base, 7)
        ops.sta_forget(o.base, o.base, o.finetuned[0], o.importances[0], kept=kept[:1])
        ops.linear(None, o.finetuned)
        ops.task_arithmetic(o.base, o.finetuned)
        ops.taylor_accumulate_(total, o.base)
        ops.taylor_finish(total, o.base)

    everything()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_replays_a_merge_of_new_values(device: torch.device):
    """Other uploads between capture and replay reuse whatever host memory the capture may have borrowed."""
    o = Operands(device, SHAPE, 5, positive=True)
    table, out = ops.normaliser(o.importances), torch.empty_like(o.base)
    kept = torch.zeros(6, dtype=torch.int64, device=device)

    def merge() -> None:
        ops.sta_merge(*o, normaliser=table, out=out, kept=kept, weight=[1.0, 0.5, 1.0, 2.0, 1.0])

    merge()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        merge()
    for seed in (1, 2, 3):
        other = Operands(device, SHAPE, 5, positive=True, seed=seed)
        o.base.copy_(other.base)
        for mine, theirs in zip((*o.finetuned, *o.importances), (*other.finetuned, *other.importances), strict=True):
            mine.copy_(theirs)
        table.copy_(ops.normaliser(o.importances))
        expected, counted = torch.empty_like(out), torch.zeros_like(kept)
        ops.sta_merge(*other, normaliser=table, out=expected, kept=counted, weight=[1.0, 0.5, 1.0, 2.0, 1.0])
        out.fill_(torch.nan)
        for _ in range(50):
            ops.minmax(list(other.importances))
        graph.replay()
        torch.cuda.synchronize()
        same(out, expected.cpu())
        same(kept, counted.cpu())


def test_a_graph_of_everything(device: torch.device):
    o = Operands(device, SHAPE, 3, torch.bfloat16, torch.float32)

    def run() -> tuple[torch.Tensor, ...]:
        return (
            ops.sta_merge(*o),
            ops.normaliser([o.importances[:2], o.importances[2]], "mean"),
            ops.sta_forget(o.base, o.base, o.finetuned[0], o.importances[0]),
            ops.linear(None, o.finetuned),
            *ops.taylor_finish(o.importances[0], o.base),
        )

    expected = [each.cpu() for each in run()]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    graph.replay()
    torch.cuda.synchronize()
    same(list(results), expected)


def test_work_goes_to_the_current_stream(device: torch.device):
    """The side stream is kept busy until after the call; on another stream the op would read what is not there yet."""
    o = Operands(device, (2000, 1000), 3, positive=True)
    expected = ops.sta_merge(*o).cpu()
    late = torch.full_like(o.base, torch.nan)
    ops.sta_merge(late, *list(o)[1:])
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.copy_(o.base)
        merged = ops.sta_merge(late, *list(o)[1:])
    stream.synchronize()
    same(merged, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_tensors_need_not_be_on_the_current_device():
    o = Operands("cuda:1", SHAPE, 3)
    expected = ops.sta_merge(*Operands("cuda:0", SHAPE, 3)).cpu()
    with torch.cuda.device(0):
        same(ops.sta_merge(*o), expected)


def test_compiled_by_inductor(device: torch.device):
    o = Operands(device, SHAPE, 3)
    merge = torch.compile(lambda *each: ops.sta_merge(*each) * 2, fullgraph=True)
    assert torch.equal(merge(*o), ops.sta_merge(*o) * 2)


def test_tensors_on_two_devices_are_refused(device: torch.device):
    o = Operands(device, SHAPE, 2)
    with pytest.raises(ValueError, match=r"finetuned\[1\]: on cpu, base is on cuda:0"):
        ops.sta_merge(o.base, [o.finetuned[0], o.finetuned[1].cpu()], o.importances)


def test_more_elements_than_32_bits_count(device: torch.device):
    n = (1 << 31) + 4099
    needed = n * 2 * 5 + (2 << 30)
    if torch.cuda.mem_get_info(device)[0] < needed:
        pytest.skip(f"{needed >> 30} GiB of GPU memory are needed")
    generator = torch.Generator(device).manual_seed(0)
    base, model, score = (torch.empty(n, dtype=torch.bfloat16, device=device) for _ in range(3))
    for each in (base, model, score):
        each.uniform_(0.25, 1, generator=generator)  # positive: whole blocks on the fast path
    score[-1] = 2.0
    table = ops.normaliser([score, base])
    kept = torch.zeros(3, dtype=torch.int64, device=device)
    merged = ops.sta_merge(base, [model, base], [score, base], normaliser=table, kept=kept)
    assert int(kept.sum()) == n
    assert float(ops.minmax([score])[0, 1]) == 2.0
    assert float(ops.order_statistic(score, n)) == 2.0
    for window in (slice(0, 5000), slice((1 << 31) - 2500, (1 << 31) + 2500), slice(n - 4000, n)):
        parts = [each[window].cpu() for each in (base, model, score)]
        with reference():
            arguments = (parts[0], [parts[1], parts[0]], [parts[2], parts[0]])
            expected = ops.sta_merge(*arguments, normaliser=table.cpu())
        same(merged[window], expected)
