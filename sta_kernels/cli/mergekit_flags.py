"""Options of ``sta-kernels merge`` that mergekit-yaml has too, so that a script changes one word."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

NO_EFFECT = {
    "low_cpu_memory": "tensors are streamed whatever it says; --max-memory is the bound",
    "lazy_unpickle": "PyTorch files are mapped, never loaded whole",
    "read_to_gpu": "on a GPU, tiles are copied when they are read",
    "multi_gpu": "a merge runs on one device",
    "async_write": "workers read, compute and write side by side",
    "write_threads": "each worker writes what it computes; --threads sets how many there are",
    "clone_tensors": "nothing in the result shares memory",
    "allow_crimes": "models must agree tensor by tensor, whatever their architecture is called",
    "trust_remote_code": "no code of a model is run",
    "lora_merge_cache": "adapters are added while tensors are read, nothing is cached",
    "lora_merge_dtype": "adapters are added in float32",
    "verbose": "there is nothing more to say; --dry-run shows the plan, with --json all of it",
}
"""mergekit's options that are taken and change nothing, and why."""
WITH_VALUE = {"write_threads": "N", "lora_merge_cache": "DIR", "lora_merge_dtype": "DTYPE"}
HUB_CACHE = "HF_HUB_CACHE"
_SHORT = {"verbose": ["-v"]}
_BILLIONS = re.compile(r"(\d+)b", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    both = argparse.BooleanOptionalAction
    group = parser.add_argument_group("as in mergekit", "With the meaning that mergekit-yaml gives them.")
    group.add_argument("--cuda", action=both, default=None, help="as --device cuda")
    group.add_argument("--gpu-rich", action="store_true", help="as --device cuda")
    group.add_argument("--copy-tokenizer", action=both, default=True, help="copy the base's tokenizer files")
    group.add_argument("--write-model-card", action=both, default=True, help="write README.md")
    group.add_argument(
        "--random-seed",
        type=_seed,
        metavar="N",
        help="seed of methods that draw; the recipe's own goes first",
    )
    group.add_argument(
        "--safe-serialization", action=both, default=True, help="write safetensors; anything else is refused"
    )
    group.add_argument("--unsafe-truncate-embeddings", action=both, default=False, help="refused: rows would be lost")
    group.add_argument("--transformers-cache", metavar="DIR", help="the hub cache in which models are looked for")
    group = parser.add_argument_group(
        "taken and without effect", "So that a command line of mergekit-yaml needs no change."
    )
    for name, reason in NO_EFFECT.items():
        flag = "--" + name.replace("_", "-")
        if name in WITH_VALUE:
            group.add_argument(flag, metavar=WITH_VALUE[name], help=reason)
        else:
            group.add_argument(*_SHORT.get(name, ()), flag, action=both, default=None, help=reason)


def check(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what would change the result and cannot be done; leaves through ``parser.error``."""
    if not arguments.safe_serialization:
        parser.error("--no-safe-serialization: safetensors are all that is written")
    if arguments.unsafe_truncate_embeddings:
        parser.error("--unsafe-truncate-embeddings: not supported; `exclude` the embeddings to copy the base's")
    wanted = [flag for flag, given in (("--cuda", arguments.cuda), ("--gpu-rich", arguments.gpu_rich)) if given]
    if wanted and arguments.device not in (None, "auto") and not arguments.device.startswith("cuda"):
        parser.error(f"{wanted[0]}: contradicts --device {arguments.device}")
    if arguments.cuda is False and (arguments.device or "").startswith("cuda"):
        parser.error(f"--no-cuda: contradicts --device {arguments.device}")


def device(arguments: argparse.Namespace) -> str:
    """The device that all options together ask for."""
    named: str | None = arguments.device
    if (arguments.cuda or arguments.gpu_rich) and named in (None, "auto"):
        return "cuda"
    return named or "auto"


@contextmanager
def hub_cache(arguments: argparse.Namespace) -> Iterator[None]:
    """Look for hub ids in the cache that was named; by the variable that is asked first."""
    if arguments.transformers_cache is None:
        yield
        return
    before = os.environ.get(HUB_CACHE)
    os.environ[HUB_CACHE] = arguments.transformers_cache
    try:
        yield
    finally:
        del os.environ[HUB_CACHE]
        if before is not None:
            os.environ[HUB_CACHE] = before


def shard_size(text: str) -> str:
    """A size as mergekit writes it too: its ``5B`` means five billion, and it counts bytes."""
    match = _BILLIONS.fullmatch(text.strip())
    return text if match is None else f"{match[1]}GB"


def notes(arguments: argparse.Namespace) -> Iterator[str]:
    """One line per option that was given and changes nothing."""
    for name, reason in NO_EFFECT.items():
        if getattr(arguments, name) is not None:
            yield f"--{name.replace('_', '-')}: no effect: {reason}"


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, zero or more, got {text!r}")
    return int(text)
