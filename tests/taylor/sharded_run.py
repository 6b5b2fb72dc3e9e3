"""One of several processes that take an importance of one sharded model; prints OK when all of it is right."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor

import sta_kernels as sk

SAMPLES = torch.randint(-2, 3, (3, 1, 70), generator=torch.Generator().manual_seed(1)).float()


def model() -> nn.Sequential:
    """Weights in halves: sums are exact, in whatever order the processes form them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(70, 65), nn.ReLU(), nn.Linear(65, 3))
    for param in net.parameters():
        param.data = torch.randint(-2, 3, param.shape) / 2
    return net


def run(net: nn.Module, measure: str, samples: list[Tensor] | Tensor = SAMPLES) -> sk.TaylorImportance:
    with sk.TaylorImportance(net, measure) as importance:
        for sample in samples:
            net(sample).square().sum().backward()
    return importance


def check(found: sk.TaylorImportance, plain: sk.TaylorImportance, folder: Path, rank: int) -> None:
    """Values, statistics, digest and files of a sharded model are those of the plain one."""
    for name, expected in plain.state_dict().items():
        values = found.state_dict()[name]
        assert isinstance(values, DTensor), name
        assert values.to_local().numel() <= -(-expected.shape[0] // dist.get_world_size()) * (expected[0].numel()), name
        assert torch.equal(values.full_tensor(), expected), name
    assert found.result.statistics == plain.result.statistics
    assert found.result.model_digest == plain.result.model_digest
    assert found.samples == plain.samples
    for shard_size in (None, 8192):
        written = found.save(folder / f"sharded-{shard_size}", shard_size=shard_size)
        dist.barrier()
        if rank == 0:
            other = plain.save(folder / f"plain-{shard_size}", shard_size=shard_size)
            assert written.name == other.name
            files = sorted(path.name for path in other.parent.iterdir())
            assert files == sorted(path.name for path in written.parent.iterdir())
            assert all((other.parent / file).read_bytes() == (written.parent / file).read_bytes() for file in files)


def shard_rows(mesh: DeviceMesh) -> nn.Module:
    def divide(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, param in list(module.named_parameters(recurse=False)):
            module.register_parameter(key, nn.Parameter(distribute_tensor(param, mesh, [Shard(0)])))

    return distribute_module(model(), mesh, divide)


def refused(net: nn.Module, words: str, **options: object) -> None:
    with pytest.raises(sk.InputError, match=words), sk.TaylorImportance(net, **options):  # type: ignore[arg-type]
        pass


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    plain = {measure: run(model(), measure) for measure in ("lp", "lp_amp")}
    # Tensor parallelism as a user writes it: rows over the processes, 65 of them over two.
    replicated = [distribute_tensor(sample, mesh, [Replicate()]) for sample in SAMPLES]
    check(run(shard_rows(mesh), "lp_amp", replicated), plain["lp_amp"], folder / "rows", rank)
    # FSDP2, every process on the same sample: the average of equal gradients is the gradient.
    net = model()
    for layer in (net[0], net[2], net):
        fully_shard(layer, mesh=mesh)
    check(run(net, "lp"), plain["lp"], folder / "fsdp", rank)
    # A gradient whose parts, here g and −2g, lie in two processes: reduced before the absolute value.
    net = nn.Module()
    net.w = nn.Parameter(DTensor.from_local(torch.full((4,), 2.0), mesh, [Replicate()]))
    with sk.TaylorImportance(net) as importance:
        part = torch.tensor([1.0, -1.0, 3.0, 0.5]) * (1 if rank == 0 else -2)
        net.w.backward(DTensor.from_local(part, mesh, [Partial()]))
    assert torch.equal(importance.state_dict()["w"].to_local(), torch.tensor([2.0, 2.0, 6.0, 1.0]))
    # What has no elements of its own, and shards that would leave their device.
    net.w = nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
    refused(net, "parts of a sum")
    refused(shard_rows(mesh), "stays where its shards are", device="meta")
    dist.destroy_process_group()
    print("OK")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
