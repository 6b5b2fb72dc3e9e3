"""Peak anonymous memory of a merge of large checkpoints, from outside, under several limits.

    python -m benchmarks.memory                              # 8 GB of disk; the sizes that the bar is stated for
    python -m benchmarks.memory --megabytes 20 --limits 192  # a trial

Writes a base and fine-tuned models as bfloat16 with float32 importances, merges them once per limit in a process of
its own, samples that process's RssAnon every 10 ms, and compares the SHA-256 of what came out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import checkpoints, processes, records

MB = 10**6


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and record; 1 where a limit was passed or digests differ."""
    parser = argparse.ArgumentParser(description="Measure the peak memory of `sta-kernels merge` under --max-memory.")
    parser.add_argument("--megabytes", type=int, default=500, help="size of a checkpoint (default: 500)")
    parser.add_argument("--models", type=int, default=4, help="fine-tuned checkpoints (default: 4)")
    parser.add_argument(
        "--limits", type=int, nargs="+", default=[192, 256, 2000], metavar="MB", help="default: 192 256 2000"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the merge (default: 2)")
    parser.add_argument("--folder", type=Path, help="where to put the files (default: the system's temporary folder)")
    parser.add_argument(
        "--results", type=Path, default=records.RESULTS, metavar="DIR", help="default: benchmarks/results"
    )
    arguments = parser.parse_args(argv)
    common = records.environment()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        recipe = write_models(folder, arguments.megabytes * MB, arguments.models)
        for limit in arguments.limits:
            out = folder / f"out-{limit}"
            measured = merge(recipe, out, limit * MB, arguments.threads)
            case = {
                "checkpoint_bytes": arguments.megabytes * MB,
                "models": arguments.models,
                "weights": "bfloat16",
                "importances": "float32",
                "max_memory": limit * MB,
                "threads": arguments.threads,
            }
            rows.append({"op": "memory", "contender": "sta-kernels merge", "case": case} | measured | common)
            print(
                f"--max-memory {limit}MB: RssAnon at most {measured['rss_anon'] / MB:.1f} MB "
                f"in {measured['samples']} samples, {measured['seconds']['p50']:.1f} s, "
                f"sha256 {measured['sha256'][:16]}"
            )
    records.append(arguments.results, rows)
    kept = all(row["rss_anon"] <= row["case"]["max_memory"] for row in rows)
    return 0 if kept and len({row["sha256"] for row in rows}) == 1 else 1


def write_models(folder: Path, n_bytes: int, n_models: int) -> Path:
    """A base, fine-tuned models and importances; returns the path of their recipe."""
    shapes = checkpoints.transformer(n_bytes // 2)
    paths = [folder / name for name in ("base", *map(str, range(n_models)))]
    for seed, path in enumerate(paths):
        path.mkdir()
        checkpoints.write(path / "model.safetensors", shapes, "BF16", seed)
        if seed:
            checkpoints.write(path / "importance.safetensors", shapes, "F32", 1000 + seed)
    base, *models = paths
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(checkpoints.recipe(base, {m: m / "importance.safetensors" for m in models})))
    return recipe


def merge(recipe: Path, out: Path, limit: int, threads: int) -> dict[str, Any]:
    """One merge as a process of its own, watched.

    Raises:
        subprocess.CalledProcessError: it failed; its own message is on the terminal.
    """
    command = [*records.program(), "merge", str(recipe), str(out)]
    command += ["--max-memory", f"{limit}", "--threads", f"{threads}", "--quiet"]
    watched = processes.watch(command)
    digest = hashlib.sha256()
    for path in sorted(out.glob("*.safetensors")):
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return {
        "rounds": 1,
        "seconds": {"p50": records.rounded(watched.seconds)},
        "rss_anon": watched.rss_anon,
        "samples": watched.samples,
        "sha256": digest.hexdigest(),
    }


if __name__ == "__main__":
    sys.exit(main())
