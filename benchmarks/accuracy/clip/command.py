"""``python -m benchmarks.accuracy clip``: the paper's tables and figures with the user's weights and data.

    python -m benchmarks.accuracy clip --pretrained vit-b-16.pt --data DATA --out OUT
    python -m benchmarks.accuracy clip … --checkpoint mnist=MNIST/finetuned.pt --checkpoint svhn=SVHN/finetuned.pt
    python -m benchmarks.accuracy clip … --tasks mnist svhn --parts table2 --limit 500 --results /tmp/rows    # a trial

A run that was stopped is continued by the same command. Exit codes: 0 done; 1 the machine failed; 2 a mistake in files
or arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import records
from benchmarks.accuracy.clip.settings import BATCH, PARTS, SAMPLES, TASKS, Settings
from benchmarks.records import Row
from sta_kernels.errors import InputError, RunError

OP = "accuracy_clip"


def parser() -> argparse.ArgumentParser:
    """Arguments of the suite."""
    result = argparse.ArgumentParser(
        "python -m benchmarks.accuracy clip",
        description="Fine-tune, merge, forget and evaluate CLIP image encoders, as in the STA paper.",
    )
    option = result.add_argument
    option("--model", default="open_clip:ViT-B-16-quickgelu", help="open_clip:ARCHITECTURE or open_clip:FILE.json")
    option("--pretrained", required=True, metavar="PATH|TAG", help="the whole CLIP model; a tag with --allow-download")
    option("--tasks", nargs="+", default=list(TASKS), metavar="NAME[=PATH]", help=f"default: {' '.join(TASKS)}")
    option("--data", type=Path, metavar="DIR", help="where torchvision finds the tasks that have no path")
    option(
        "--control", default="imagenet", metavar="NAME[=PATH]", help="what forgetting is to leave alone, or `others`"
    )
    option(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a model that is fine-tuned already; tasks without one are trained",
    )
    option("--out", type=Path, required=True, metavar="DIR", help="for models, recipes, results, tables and figures")
    option("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="default: all")
    option("--epochs", nargs="+", default=[], metavar="NAME=N", help="in place of the paper's")
    option("--prompts", nargs="+", default=[], metavar="NAME=FILE", help="class names and templates of one's own")
    option("--samples", type=int, default=SAMPLES, help=f"pictures per importance (default: {SAMPLES})")
    option("--dare-drop", type=float, default=0.1, help="share that the DARE rows drop (default: 0.1)")
    option("--seed", type=int, default=0, help="of everything random (default: 0)")
    option("--limit", type=int, metavar="N", help="test pictures per task, for a trial")
    option(
        "--count-frozen",
        action="store_true",
        help="let thresholds of a whole model count text entries, as the papers do",
    )
    option("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    option("--workers", type=int, default=2, help="processes that load pictures (default: 2)")
    option("--batch", type=int, default=BATCH, help=f"pictures at a time in evaluation (default: {BATCH})")
    option("--published", type=Path, metavar="FILE", help="figures to set beside ours (default: published.json)")
    option(
        "--results",
        type=Path,
        default=records.RESULTS,
        metavar="DIR",
        help="for the rows (default: benchmarks/results)",
    )
    option("--keep", action="store_true", help="leave merged models in OUT/merged")
    option("--allow-download", action="store_true", help="let torchvision and open_clip fetch data and weights")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite."""
    command = parser()
    arguments = command.parse_args(argv)
    try:
        from benchmarks.accuracy.clip.tables import SHIPPED, published, render
        from sta_kernels.vision import check_spec

        settings = settings_of(arguments)
        name = check_spec(settings.model)
        source, theirs = published(arguments.published or SHIPPED, name)
        common = records.environment()
        from benchmarks.accuracy.clip.figures import draw
        from benchmarks.accuracy.clip.run import Run

        def measured(row: Row, images: Mapping[str, int]) -> None:
            records.append(arguments.results, [row_of(settings, row, images) | common])

        record = Run(settings, lambda text: print(text, file=sys.stderr, flush=True), measured).all()
        text = render(record, settings.parts, settings.control, theirs, source)
        (settings.out / "tables.md").write_text(text, encoding="utf-8")
        pictures = draw(record, settings.parts, settings.out)
    except InputError as error:
        print(f"{command.prog}: {error}", file=sys.stderr)
        return 2
    except (RunError, RuntimeError, OSError) as error:
        print(f"{command.prog}: {error}", file=sys.stderr)
        return 1
    print(text, *(f"{picture}\n" for picture in pictures), sep="\n")
    return 0


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Of a command line.

    Raises:
        InputError: an option names a task that is not among the tasks, or a number that is none.
    """
    from sta_kernels.vision.tasks import parse_task

    names = [parse_task(task)[0] for task in arguments.tasks]
    if len(set(names)) < len(names):
        raise InputError(f"--tasks: {', '.join(names)}: one of them twice")
    if len(names) < 2:
        raise InputError("--tasks: at least two, or there is nothing to merge")
    control = None if arguments.control == "others" else arguments.control
    if control is not None:
        parse_task(control)
    tested = [*names, *([control.partition("=")[0]] if control else [])]
    if not 0 <= arguments.dare_drop < 1:
        raise InputError(f"--dare-drop: a share in [0, 1), not {arguments.dare_drop}")
    for option, least in (("samples", 1), ("limit", 1), ("batch", 1), ("workers", 0)):
        value = getattr(arguments, option)
        if value is not None and value < least:
            raise InputError(f"--{option}: at least {least}, not {value}")
    checkpoints = _by_task("--checkpoint", arguments.checkpoint, names)
    for path in checkpoints.values():
        if not Path(path).exists():
            raise InputError(f"{path}: no such file or folder")
    epochs = _by_task("--epochs", arguments.epochs, names)
    for name, number in epochs.items():
        if not number.isdecimal() or not int(number):
            raise InputError(f"--epochs {name}={number}: expected a whole number from 1")
    return Settings(
        model=arguments.model,
        pretrained=arguments.pretrained,
        tasks=tuple(arguments.tasks),
        out=arguments.out,
        data=arguments.data,
        control=control,
        checkpoints={name: Path(path) for name, path in checkpoints.items()},
        prompts={name: Path(path) for name, path in _by_task("--prompts", arguments.prompts, tested).items()},
        parts=tuple(part for part in PARTS if part in arguments.parts),
        epochs={name: int(number) for name, number in epochs.items()},
        samples=arguments.samples,
        dare_drop=arguments.dare_drop,
        seed=arguments.seed,
        limit=arguments.limit,
        count_frozen=arguments.count_frozen,
        device=arguments.device,
        workers=arguments.workers,
        batch=arguments.batch,
        allow_download=arguments.allow_download,
        keep=arguments.keep,
    )


def _by_task(option: str, given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not value or name not in names:
            raise InputError(f"{option} {text}: expected NAME=…, with a name of {', '.join(names)}")
        found[name] = value
    return found


def row_of(settings: Settings, row: Row, images: Mapping[str, int]) -> Row:
    """A line of the record as ``results/accuracy_clip.jsonl`` holds it."""
    asked = settings.identity()
    case = {key: asked[key] for key in ("model", "control", "epochs", "samples", "seed", "limit", "count_frozen")}
    # Where files lie is nobody's business.
    case |= {"tasks": settings.names, "pretrained": Path(settings.pretrained).name}
    case |= {"control": None if settings.control is None else settings.control.partition("=")[0]}
    case |= {"own_checkpoints": sorted(settings.checkpoints), "own_prompts": sorted(settings.prompts)}
    case |= {"model": Path(settings.model).name, "part": row["part"], "merged": row.get("tasks")}
    figures = {key: row.get(key) for key in ("accuracy", "kept")}
    return {"op": OP, "contender": row["title"], "case": case, "images": dict(images)} | figures
