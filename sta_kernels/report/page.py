"""The page: one HTML file with everything in it, and nothing fetched or run by it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from sta_kernels import methods
from sta_kernels._version import __version__
from sta_kernels.engine import Manifest
from sta_kernels.report import sections
from sta_kernels.report.charts import Picture
from sta_kernels.report.measures import Measured


@dataclass(frozen=True)
class Page:
    """HTML, and the pictures in it."""

    html: str
    pictures: tuple[Picture, ...]


def render(manifest: Manifest, out: Path, measured: Mapping[str, Measured] | None, left_out: str) -> Page:
    """Make the page.

    Args:
        manifest: of the merge, checked.
        out: its folder.
        measured: sums of every merged segment, or None.
        left_out: why they are missing.
    """
    parts = sections.of_merge(manifest, measured)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data"] = _data
    html = environment.get_template("page.html.j2").render(
        name=out.resolve().name,
        method=manifest.method,
        summary=methods.get(manifest.method).summary if manifest.method in methods.names() else "",
        facts=_facts(manifest),
        notes=manifest.notes,
        left_out=left_out,
        sections=parts,
        recipe=manifest.recipe,
        inputs=[(file["path"], _bytes(file["size"]), file["digest"]) for e in manifest.inputs for file in e["files"]],
        outputs=[(name, _bytes(file["size"]), file["digest"]) for name, file in manifest.files.items()],
        version=__version__,
    )
    return Page(html, tuple(picture for part in parts for picture in part.pictures))


def _data(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _bytes(count: int) -> str:
    return f"{count:,}"


def _facts(manifest: Manifest) -> list[tuple[str, Any]]:
    summary = manifest.summary()
    rows = [
        ("merged", f"{summary['tensors_merged']:,} tensors, {summary['elements_merged']:,} elements"),
        ("copied", f"{summary['tensors_copied']:,} tensors"),
        ("written", f"{summary['bytes_written']:,} bytes in {summary['files']:,} files"),
        ("exactness", f"tier {manifest.tier}"),
        ("made on", ", ".join(str(manifest.served_by.get(key, "–")) for key in ("device", "backend"))),
        ("made with", f"sta_kernels {manifest.version}"),
        ("identity", manifest.identity),
    ]
    if summary["unrouted"]:
        share = sections.percent(summary["unrouted"] / summary["elements_merged"])
        rows.insert(1, ("kept of no model", f"{summary['unrouted']:,} of the elements ({share})"))
    return rows
