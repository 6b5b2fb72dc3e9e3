"""``sta-kernels importance``: of a fine-tuned CLIP image encoder, on pictures of its task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sta_kernels.cli.arguments import Parser

if TYPE_CHECKING:
    from sta_kernels.taylor.result import Importance
    from sta_kernels.vision import Clip, Split, Weights

MEASURES = ("lp", "amp", "lp_amp")
SAMPLES = 32
_EPILOG = """\
example:
  sta-kernels importance --model open_clip:ViT-B-16-quickgelu --pretrained vit-b-16.pt --checkpoint vit-mnist/ --dataset mnist --data data/ --samples 32
  sta-kernels importance --model open_clip:ViT-B-16-quickgelu --checkpoint vit-mnist/ --measure amp --out amp.safetensors

The importance is named by open_clip's names, visual.*; --export writes the encoder by the same names, which a merge needs
of checkpoints that have others or are pickled. Nothing is downloaded without --allow-download.
exit codes: 0 done, 1 the machine failed, 2 a mistake in files or arguments, 130 and 143 stopped by a signal
"""  # noqa: E501


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = Parser(
        prog="sta-kernels importance",
        description="Write how much each weight of a fine-tuned CLIP image encoder matters to its task.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = result.add_argument
    option(
        "--model",
        required=True,
        metavar="SPEC",
        help="open_clip:ARCHITECTURE, such as open_clip:ViT-B-16, or open_clip:FILE.json, a description of one",
    )
    option(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="the fine-tuned model, or its image encoder: a file or folder of open_clip's, task arithmetic's or "
        "Hugging Face's",
    )
    option(
        "--pretrained",
        metavar="PATH|TAG",
        help="the CLIP model before fine-tuning, for its text encoder (default: --checkpoint, where it holds one)",
    )
    option(
        "--dataset",
        metavar="NAME[=PATH]",
        help="the task: mnist, cars, svhn, gtsrb, dtd, eurosat, resisc45, sun397, imagenet, or folder=PATH",
    )
    option("--data", type=Path, metavar="DIR", help="where torchvision finds the data sets")
    option("--samples", type=int, metavar="N", help=f"training pictures, one backward pass each (default: {SAMPLES})")
    option("--measure", choices=MEASURES, default="lp", help="amp reads the weights alone (default: lp)")
    option(
        "--prompts",
        type=Path,
        metavar="FILE.json",
        help='{"classes": […], "templates": […]}, or one of them, in place of the task\'s own',
    )
    option("--seed", type=int, default=0, help="of the pictures' draw (default: 0)")
    option("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    option(
        "--out",
        type=Path,
        metavar="PATH",
        help="file or folder (default: importance.safetensors beside the checkpoint)",
    )
    option(
        "--export",
        type=Path,
        metavar="DIR",
        help="also write the encoder, by the same names, as DIR/model.safetensors",
    )
    option("--overwrite", action="store_true", help="replace what --out and --export name")
    option(
        "--allow-download", action="store_true", help="let torchvision and open_clip fetch data and pretrained weights"
    )
    option("--quiet", action="store_true", help="no progress and no summary")
    return result


def run(argv: Sequence[str]) -> int:
    """Compute and write it."""
    command = parser()
    arguments = command.parse_args(argv)
    by_weights = arguments.measure == "amp"
    given = [name for name in ("samples", "dataset", "data", "prompts") if getattr(arguments, name) is not None]
    if by_weights and given:
        command.error(f"--measure amp reads the weights alone: leave out --{', --'.join(given)}")
    if not by_weights and arguments.dataset is None:
        command.error(f"--measure {arguments.measure} needs pictures of the task: --dataset")
    out = _free(arguments)
    from sta_kernels.vision import check_spec, choose, open_split, read_weights
    from sta_kernels.vision.models import device_of

    check_spec(arguments.model)
    device = device_of(arguments.device)
    split = None
    if not by_weights:
        split = open_split(arguments.dataset, arguments.data, train=True, download=arguments.allow_download)
        positions = choose(split, SAMPLES if arguments.samples is None else arguments.samples, arguments.seed)
    weights = read_weights(arguments.checkpoint)
    if split is None:
        result = _of_weights(arguments, weights)
    else:
        result = _of_pictures(arguments, weights, split, positions, device)
    written = result.save(out)
    if not arguments.quiet:
        print(f"{written}: {result.measure}, {len(result)} tensors, {result.samples} samples")
        if weights.form != "open_clip" and arguments.export is None:
            kind = {"huggingface": "has Hugging Face's names", "pickled": "is a pickled module"}[weights.form]
            print(
                f"sta-kernels: note: the importance has open_clip's names, and {arguments.checkpoint} {kind}; "
                "a merge needs the encoder as --export writes it",
                file=sys.stderr,
            )
    return 0


def _free(arguments: argparse.Namespace) -> Path:
    """Where the importance goes, once nothing is there or may be replaced."""
    from sta_kernels.checkpoint.folder import INDEX_SUFFIX
    from sta_kernels.errors import InputError

    checkpoint = Path(arguments.checkpoint)
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    out = arguments.out or beside / "importance.safetensors"
    single = out if out.suffix == ".safetensors" and not out.is_dir() else out / "importance.safetensors"
    written = [single, single.with_name(single.name + INDEX_SUFFIX)]
    if arguments.export is not None:
        written.append(arguments.export / "model.safetensors")
        if checkpoint.exists() and written[-1].exists() and checkpoint.resolve() in (
            written[-1].resolve(), arguments.export.resolve(),
        ):  # fmt: skip
            raise InputError(f"--export {arguments.export}: would replace the checkpoint itself")
    for file in written:
        if file.exists() and not arguments.overwrite:
            raise InputError(f"{file}: is there already; --overwrite replaces it")
    if single.parent != out and not single.parent.is_dir():
        raise InputError(f"{single}: the folder {single.parent} does not exist")
    return out


def _of_weights(arguments: argparse.Namespace, weights: Weights) -> Importance:
    from sta_kernels.vision import amp_importance, build, load_pretrained

    if arguments.pretrained is None:
        clip = build(arguments.model)
    else:
        clip = load_pretrained(arguments.model, arguments.pretrained, allow_download=arguments.allow_download)
    _load(clip, weights, arguments)
    return amp_importance(clip.visual)


def _of_pictures(
    arguments: argparse.Namespace, weights: Weights, split: Split, positions: list[int], device: object
) -> Importance:
    from tqdm import tqdm

    from sta_kernels.vision import Classifier, load_pretrained, task_importance, zero_shot_head

    source = arguments.pretrained or arguments.checkpoint
    clip = load_pretrained(arguments.model, source, allow_download=arguments.allow_download)
    clip.model.to(device)  # type: ignore[call-overload]
    head = zero_shot_head(clip, split.prompts.replaced(arguments.prompts))
    _load(clip, weights, arguments)
    silent = arguments.quiet or not sys.stderr.isatty()
    with tqdm(total=len(positions), desc="importance", unit="picture", disable=silent, dynamic_ncols=True) as bar:

        def progress(done: int) -> None:
            bar.update(done - bar.n)

        classifier = Classifier(clip.visual, head)
        return task_importance(
            classifier, split, positions, clip.preprocess, measure=arguments.measure, progress=progress
        )


def _load(clip: Clip, weights: Weights, arguments: argparse.Namespace) -> None:
    """The fine-tuned encoder in the pretrained one's place, and its export."""
    from sta_kernels.errors import InputError
    from sta_kernels.vision import load_encoder, save_encoder

    kept = load_encoder(clip.model, weights, arguments.checkpoint)
    if kept and arguments.pretrained is None:
        raise InputError(
            f"{arguments.checkpoint}: holds no {kept[0]}, which is the pretrained model's then: --pretrained"
        )
    if arguments.export is not None:
        save_encoder(clip.model, arguments.export)
