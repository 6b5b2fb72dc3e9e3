"""The folder of a report: one page, and its pictures as files."""

from __future__ import annotations

import os
from pathlib import Path

from sta_kernels.checkpoint import atomic_write
from sta_kernels.engine.journal import JOURNAL_NAME
from sta_kernels.engine.manifest import read_manifest
from sta_kernels.engine.output import MANIFEST_NAME
from sta_kernels.errors import InputError, RunError
from sta_kernels.report import facts
from sta_kernels.report.measures import Measured, Progress, measure

PAGE = "report.html"
PICTURES = ("rates_by_layer", "rates_by_type", "overlap", "cosines", "norms_by_layer")


def write_report(
    out: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    inputs: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Describe a finished merge in one HTML page, with its pictures beside it as PNGs.

    What the manifest holds is always shown: recipe, files, digests, and what was kept by layer and type. Overlaps,
    norms, angles and contested tensors are taken from the inputs, read tile by tile, if they still are what was merged;
    where they are not, the page says so.

    Args:
        out: the folder that a merge wrote.
        folder: of the report; None is ``OUT-report``, beside it.
        overwrite: replace the report that the folder holds, and leave other files.
        inputs: False leaves the inputs unread.
        progress: called with a stage, the bytes read, and those to be read.

    Returns:
        The page.

    Raises:
        InputError: no finished merge, or one whose manifest cannot be understood; a folder that holds something;
            matplotlib or Jinja2 is missing.
        RunError: the disk is full, or failed.
    """
    try:
        from sta_kernels.report import page
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("matplotlib", "jinja2"):
            raise
        raise InputError(f"report: {error.name} is missing; pip install '.[plot]' in a clone") from None
    merged = Path(os.path.abspath(os.path.expanduser(out)))
    target = merged.with_name(f"{merged.name}-report") if folder is None else Path(os.path.expanduser(folder))
    manifest = read_manifest(merged)
    if manifest is None:
        unfinished = (merged / JOURNAL_NAME).exists()
        said = "holds an unfinished merge" if unfinished else f"holds no finished merge: {MANIFEST_NAME} is missing"
        raise InputError(f"{merged}: {said}; run the merge, then its report")
    facts.check(manifest, merged / MANIFEST_NAME)
    _check_place(target, merged, overwrite)
    measured: dict[str, Measured] | None = None
    left_out = "the inputs were not to be read (--no-inputs)"
    if inputs:
        try:
            measured, left_out = measure(manifest, merged, progress), ""
        except (InputError, RunError) as error:
            left_out = str(error)
    made = page.render(manifest, merged, measured, left_out)
    pictures = {f"{picture.name}.png": picture.light for picture in made.pictures}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in {f"{name}.png" for name in PICTURES} - pictures.keys():
            (target / name).unlink(missing_ok=True)  # of an earlier report
    except OSError as error:
        raise InputError(f"{target}: cannot be made a folder for the report: {error.strerror or error}") from None
    for name, content in pictures.items():
        atomic_write(target / name, content)
    atomic_write(target / PAGE, made.html.encode("utf-8", "replace"))
    return target / PAGE


def _check_place(target: Path, merged: Path, overwrite: bool) -> None:
    """Refuse the merge's own folder, and one that holds something."""
    if os.path.realpath(target) == os.path.realpath(merged):
        raise InputError(f"{target}: holds the merge; choose another folder for the report")
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is not a folder; choose another one for the report")
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise InputError(
            f"{target}: is not empty; choose another folder with --out, or replace the report: --overwrite"
        )
