"""``sta-kernels merge``: a recipe, from disk to disk."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from sta_kernels.cli import mergekit_flags
from sta_kernels.cli.arguments import Parser

_EPILOG = """\
example:
  sta-kernels merge recipe.yaml merged/ --max-memory 512MB

  with recipe.yaml (paths relative to the working directory):
    merge_method: sta
    base_model: vit/
    models:
      - model: vit-mnist/
        parameters: {importance: vit-mnist/importance.safetensors}
      - model: vit-svhn/
        parameters: {importance: vit-svhn/importance.safetensors}
    parameters: {p: 0.7}

A merge that was stopped is continued by the same command, to the same bits.
exit codes: 0 done, 1 the machine failed, 2 a mistake in recipe, files or arguments, 130 and 143 stopped by a signal
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = Parser(
        prog="sta-kernels merge",
        description="Merge checkpoints from disk to disk in bounded memory, as a recipe says.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("recipe", metavar="RECIPE.yaml", help="what to merge and how: mergekit's YAML, with STA's keys")
    result.add_argument("out", metavar="OUT", help="folder for the result")
    result.add_argument(
        "--device",
        help="cpu, cuda or cuda:N, interpret (Triton's interpreter: slow, a proof), or auto: the CPU, since files are "
        "read into main memory; the same bits on all, and a merge may be continued on another (default: auto)",
    )
    result.add_argument(
        "--threads", "--num-threads", "-j", type=_positive, metavar="N",
        help="worker threads (default: one per processor)",
    )  # fmt: skip
    result.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="bound of the process's own (anonymous) memory, such as 512MB; at least 192MB (default: 2 GiB, or a "
        "quarter of RAM where that is less)",
    )
    result.add_argument(
        "--out-shard-size", metavar="SIZE", type=mergekit_flags.shard_size, default="5GB",
        help="largest output file, such as 5GB, or 5B as mergekit writes it (default: 5GB)",
    )  # fmt: skip
    result.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what OUT holds: its weights, whoever wrote them, and a merge's own files; leave others",
    )
    result.add_argument(
        "--allow-nonfinite", action="store_true", help="merge NaN and infinity instead of refusing them"
    )
    result.add_argument(
        "--dry-run", action="store_true", help="print the plan, and whether OUT would be refused; touch nothing"
    )
    result.add_argument("--json", action="store_true", help="with --dry-run: the whole plan as JSON")
    result.add_argument("--profile", action="store_true", help="print where the time went, to standard error")
    result.add_argument(
        "--quiet", action=argparse.BooleanOptionalAction, default=False, help="no progress and no summary"
    )
    mergekit_flags.add_arguments(result)
    return result


def run(argv: Sequence[str]) -> int:
    """Merge, or print the plan."""
    command = parser()
    arguments = command.parse_args(argv)
    if arguments.json and not arguments.dry_run:
        command.error("--json goes with --dry-run")
    mergekit_flags.check(arguments, command)
    from sta_kernels.cli import printable, render
    from sta_kernels.cli.progress import Progress
    from sta_kernels.engine import Plan, Profile, merge_checkpoints
    from sta_kernels.engine.profile import process_age
    from sta_kernels.recipe import Recipe

    started = time.monotonic()
    with mergekit_flags.hub_cache(arguments):
        recipe = Recipe.load(arguments.recipe)
    if arguments.random_seed is not None:
        recipe = recipe.seeded(arguments.random_seed)
    idle = tuple(mergekit_flags.notes(arguments))
    if not arguments.quiet:
        for note in idle if arguments.dry_run else (*idle, *recipe.notes):
            print(f"sta-kernels: note: {printable(note)}", file=sys.stderr)
    profile = Profile(time.perf_counter() - process_age()) if arguments.profile else None
    with Progress(arguments.quiet) as progress:
        result = merge_checkpoints(
            recipe,
            arguments.out,
            device=mergekit_flags.device(arguments),
            threads=arguments.threads,
            max_memory=arguments.max_memory,
            out_shard_size=arguments.out_shard_size,
            overwrite=arguments.overwrite,
            allow_nonfinite=arguments.allow_nonfinite,
            copy_tokenizer=arguments.copy_tokenizer,
            write_model_card=arguments.write_model_card,
            dry_run=arguments.dry_run,
            progress=progress,
            profile=profile,
        )
    if isinstance(result, Plan):
        text = json.dumps(result.to_json()) if arguments.json else render.plan(result.summary(), arguments.out)
        print(printable(text))
    elif not arguments.quiet:
        names = [spec.name for spec in recipe.models]
        print(printable(render.result(result.summary(), names, arguments.out, time.monotonic() - started)))
    if profile is not None and profile.total:
        print(render.profile(profile), file=sys.stderr)
    return 0


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value
