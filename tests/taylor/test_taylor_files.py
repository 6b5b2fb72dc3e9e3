"""Importance files: read back by the safetensors library and by our own reader, with what they say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file
from taylor_models import Case

import sta_kernels as sk
from sta_kernels._version import __version__
from sta_kernels.checkpoint import ImportanceMetadata, model_digest, open_checkpoint
from sta_kernels.taylor import Importance


@pytest.fixture
def importance(language_case: Case) -> Importance:
    return sk.importance(language_case.model, language_case.samples, language_case.loss)


def read_all(path: Path) -> dict[str, torch.Tensor]:
    """Everything that the library finds in a folder, after its index where there is one."""
    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_file(language_case: Case, tmp_path: Path, dtype: torch.dtype) -> None:
    with sk.TaylorImportance(language_case.model, dtype=dtype) as importance:
        for tokens, target in language_case.samples:
            language_case.loss(language_case.model(tokens), target).backward()
    path = tmp_path / "mine.safetensors"
    assert importance.save(path) == path
    assert [file.name for file in tmp_path.iterdir()] == ["mine.safetensors"]
    stored = load_file(path)
    expected = importance.state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) and stored[name].dtype == dtype for name in stored)
    assert torch.equal(stored["unembed.weight"], stored["embed.weight"]), "found under each of its names"

    with safetensors.safe_open(path, "pt") as file:
        metadata = ImportanceMetadata.from_metadata(file.metadata())
    assert metadata is not None
    assert (metadata.measure, metadata.samples, metadata.version) == ("lp", 4, __version__)
    assert metadata.statistics == importance.result.statistics
    assert metadata.model_digest == importance.result.model_digest


@pytest.mark.parametrize("shard_size", [1, 3000, 10**9, None])
def test_our_reader_reads_any_number_of_shards(importance: Importance, tmp_path: Path, shard_size: int | None) -> None:
    named = importance.save(tmp_path, shard_size=shard_size)
    one_file = shard_size in (10**9, None)
    assert named.name == ("importance.safetensors" if one_file else "importance.safetensors.index.json")
    stored = read_all(tmp_path)
    assert all(torch.equal(stored[name], tensor) for name, tensor in importance.items())
    for path in (named, tmp_path):
        with open_checkpoint(path, stem="importance") as checkpoint:
            assert set(checkpoint.entries) == set(importance)
            metadata = ImportanceMetadata.from_metadata(checkpoint.metadata)
            assert metadata is not None
            assert metadata.statistics == importance.statistics
            for name, entry in checkpoint.entries.items():
                content = bytearray(entry.nbytes)
                checkpoint.read_into(name, 0, memoryview(content))
                assert bytes(content) == importance[name].numpy().tobytes()
    for file in tmp_path.glob("*.safetensors"):
        assert one_file or len(load_file(file)) == 1 or file.stat().st_size < 3000 + 8000


def test_a_new_importance_replaces_the_old_one(importance: Importance, tmp_path: Path) -> None:
    doubled = Importance(
        {name: tensor * 2 for name, tensor in importance.items()},
        importance.statistics,
        measure="lp",
        samples=9,
        model_digest="",
    )
    for first, second in ((None, 3000), (3000, None)):
        importance.save(tmp_path, shard_size=first)
        named = doubled.save(tmp_path, shard_size=second)
        entries = (tmp_path / "importance.safetensors", tmp_path / "importance.safetensors.index.json")
        assert [path for path in entries if path.exists()] == [named]
        with open_checkpoint(tmp_path, stem="importance") as checkpoint:
            metadata = ImportanceMetadata.from_metadata(checkpoint.metadata)
            assert metadata is not None
            assert metadata.samples == 9


def test_the_digest_is_that_of_the_float32_values(language_case: Case) -> None:
    model = language_case.model.bfloat16()
    in_bfloat16 = sk.importance(model, measure="amp").model_digest
    in_float32 = sk.importance(model.float(), measure="amp").model_digest
    literal = model_digest((name, [tensor.numpy()]) for name, tensor in model.state_dict().items())
    assert in_bfloat16 == in_float32 == literal
    with torch.no_grad():
        model.norm.bias[3] += 1e-3
    assert sk.importance(model, measure="amp").model_digest != literal


def test_where_it_cannot_be_written(importance: Importance, tmp_path: Path) -> None:
    with pytest.raises(sk.InputError, match=r"importance\.pt: an importance is written as \.safetensors"):
        importance.save(tmp_path / "importance.pt")
    with pytest.raises(sk.InputError, match=r"folder .*missing does not exist"):
        importance.save(tmp_path / "missing" / "x.safetensors")
    with pytest.raises(sk.InputError, match="at least 1 byte, not 0"):
        importance.save(tmp_path, shard_size=0)
    (tmp_path / "file").touch()
    with pytest.raises(sk.RunError, match="cannot be made"):
        importance.save(tmp_path / "file" / "folder")
    assert importance.save(tmp_path / "new" / "folder").is_file()


def test_a_merge_takes_it(language_case: Case) -> None:
    base = {name: tensor.clone() for name, tensor in language_case.model.state_dict().items()}
    tasks, importances = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            for param in language_case.model.parameters():
                param += torch.randn_like(param) * 0.01
        tasks.append({name: tensor.clone() for name, tensor in language_case.model.state_dict().items()})
        importances.append(sk.importance(language_case.model, language_case.samples, language_case.loss))
    merged = sk.merge(base, tasks, importances=importances)
    chosen = merged["norm.weight"] != base["norm.weight"]
    assert chosen.any()
    larger = [imp["norm.weight"] for imp in importances]
    unit = [(x - x.min()) / (x.max() - x.min()) for x in larger]
    expected = torch.where(unit[0] > unit[1], tasks[0]["norm.weight"], base["norm.weight"])
    expected = torch.where(unit[1] > unit[0], tasks[1]["norm.weight"], expected)
    torch.testing.assert_close(merged["norm.weight"], expected)
