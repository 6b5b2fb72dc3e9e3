"""The page: what it says, that it stands alone, and that nothing in a recipe or a file name gets out of its place."""

from __future__ import annotations

import base64
import json
import re
import shutil
import struct
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sta_kernels
from sta_kernels import cli
from sta_kernels.engine import verify
from sta_kernels.engine.manifest import MANIFEST_NAME, read_manifest
from sta_kernels.errors import InputError
from sta_kernels.kernels.reference.sta_merge import rank_mask_literal
from sta_kernels.report import charts, facts, sections, write_report
from sta_kernels.report.charts import Picture
from sta_kernels.report.facts import Names
from sta_kernels.report.folder import PAGE, PICTURES
from sta_kernels.report.measures import Measured, measure

VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Document(HTMLParser):
    """Headings, tables and pictures of a page whose tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.texts[tag][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(merged, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def document(page: Path) -> Document:
    return Document(page.read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that cost nothing, for tests of the words beside them."""
    monkeypatch.setattr(charts, "_picture", lambda name, alt, height, draw: Picture(name, alt, b"light", b"dark"))


def copy_of(merged: Path, folder: Path) -> Path:
    return Path(shutil.copytree(merged, folder))


def edit(out: Path, **changes: Any) -> None:
    path = out / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


def test_everything_has_its_section(document: Document, merged: Path):
    assert document.texts["h1"] == ["Merge report: merged"]
    assert document.texts["h2"] == [
        "Models",
        "Share kept by layer",
        "Share kept by type of tensor",
        "Overlap of selections",
        "Angles between task vectors",
        "Norms by layer",
        "Most contested tensors",
        "Tensors",
        "Recipe",
        "Files and digests",
    ]
    manifest = read_manifest(merged)
    assert manifest is not None
    assert document.texts["pre"] == [manifest.recipe]
    text = document.texts["main"][0]
    for record in (*manifest.files.values(), *(file for entry in manifest.inputs for file in entry["files"])):
        assert record["digest"] in text
    assert manifest.identity in text


def test_numbers_are_those_of_the_manifest(document: Document, merged: Path):
    manifest = read_manifest(merged)
    assert manifest is not None
    summary = manifest.summary()
    text = document.texts["table"][0]
    for kept in summary["kept"]:
        assert f"{100 * kept / summary['elements_merged']:.1f}\N{NO-BREAK SPACE}%" in text
    layers = next(table for table in document.texts["table"] if "layer" in table)
    norm = next(record for record in manifest.tensors if record["name"] == "layers.0.norm.weight")
    projection = next(record for record in manifest.tensors if record["name"] == "layers.0.attn.in_proj_weight")
    share = (norm["kept"][0] + projection["kept"][0]) / (norm["elements"] + projection["elements"])
    assert f"{100 * share:.1f}" in re.split(r"\n\s*(?=layers\.1)", layers)[0]


def test_the_page_stands_alone(page: Path, document: Document):
    html = page.read_text(encoding="utf-8")
    assert not document.of("script")
    assert not document.of("link")
    assert not re.search(r"(?:src|href|srcset|url\()\s*=?\s*[\"']?\s*(?:https?:)?//", html)
    policy = next(meta["content"] for meta in document.of("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in document.of("meta")
    assert "prefers-color-scheme: dark" in html
    for attributes in document.of("img"):
        assert attributes["alt"]
    assert len(document.of("img")) == len(document.of("source")) == 5
    divisions = [attributes for attributes in document.of("div") if attributes.get("class") == "scroll"]
    assert len(divisions) == len(document.of("table"))


def test_pictures_stand_beside_it_and_in_it(page: Path, document: Document):
    stored = {path.stem: path.read_bytes() for path in page.parent.glob("*.png")}
    assert set(stored) == set(PICTURES)
    shown = [base64.b64decode(str(each["src"]).partition(",")[2]) for each in document.of("img")]
    assert sorted(shown) == sorted(stored.values())
    for content in (*shown, *(base64.b64decode(str(e["srcset"]).partition(",")[2]) for e in document.of("source"))):
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert width == 720
        assert 200 < height < 3000
    assert len(set(shown)) == 5


@pytest.mark.usefixtures("undrawn")
def test_the_same_merge_gives_the_same_page(merged: Path, tmp_path: Path):
    assert write_report(merged, tmp_path / "a").read_bytes() == write_report(merged, tmp_path / "b").read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_inputs_that_are_not_read_leave_sections_out(merged: Path, tmp_path: Path, family: Any):
    page = write_report(merged, tmp_path / "short", inputs=False)
    short = Document(page.read_text(encoding="utf-8"))
    assert short.texts["h2"][:4] == ["Models", "Share kept by layer", "Share kept by type of tensor", "Tensors"]
    assert "--no-inputs" in short.texts["header"][0]
    assert {path.stem for path in page.parent.glob("*.png")} == {"rates_by_layer", "rates_by_type"}
    out = copy_of(merged, tmp_path / "moved")
    recipe = json.loads((out / MANIFEST_NAME).read_bytes())["recipe"].replace(str(family.folder), "/gone")
    edit(out, recipe=recipe)
    gone = Document(write_report(out).read_text(encoding="utf-8"))
    assert gone.texts["h2"][:4] == short.texts["h2"][:4]
    assert "/gone/base" in gone.texts["header"][0]
    assert "1 task0" in gone.texts["table"][0]  # by the recipe's text


@pytest.mark.usefixtures("undrawn")
def test_methods_that_count_nothing_have_vectors(family: Any, tmp_path: Path):
    out = family.merge(tmp_path / "out", "ties")
    found = Document(write_report(out).read_text(encoding="utf-8")).texts["h2"]
    assert found[:4] == ["Models", "Angles between task vectors", "Norms by layer", "Most contested tensors"]


@pytest.mark.usefixtures("undrawn")
def test_forgetting_says_what_is_subtracted(family: Any, tmp_path: Path):
    recipe = family.recipe("sta")
    recipe = {**recipe, "merge_method": "sta_forget", "models": recipe["models"][:1]}
    sta_kernels.merge_checkpoints(recipe, tmp_path / "out")
    found = Document(write_report(tmp_path / "out").read_text(encoding="utf-8"))
    assert "Share subtracted by layer" in found.texts["h2"]
    assert "Overlap of selections" not in found.texts["h2"]


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }} $\\frac{1}$ \x07 & _"


def test_hostile_names_are_text(merged: Path, tmp_path: Path):
    out = copy_of(merged, tmp_path / "out")
    record = json.loads((out / MANIFEST_NAME).read_bytes())
    for tensor in record["tensors"]:
        tensor["name"] = f"layers.{HOSTILE}.0.{tensor['name']}{HOSTILE}"
    record["inputs"][0]["files"][0] |= {"path": HOSTILE, "digest": HOSTILE}
    plain = "".join(mark for mark in HOSTILE if mark.isprintable() and mark not in "/\\:")  # others are refused
    files = {plain: {"size": 1, "digest": HOSTILE}}
    recipe = json.dumps({"merge_method": "sta", "models": [{"model": f"{i}{HOSTILE[:80]}"} for i in range(3)]})
    edit(out, **{**record, "files": files, "notes": [HOSTILE], "recipe": recipe + HOSTILE, "identity": HOSTILE})
    found = Document(write_report(out).read_text(encoding="utf-8"))
    assert not found.of("script")
    assert not [attributes for _, attributes in found.tags if "onerror" in attributes]
    assert len(found.of("img")) == 2
    assert "49" not in found.texts["p"]
    assert HOSTILE[:60] in found.texts["main"][0]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"recipe": 3}, "recipe is no str"),
        ({"recipe": "\ud800"}, "recipe is not"),
        ({"tensors": [{"name": "x"}]}, "tensors are described"),
        ({"tensors": [{"name": "x", "tensor": "x", "elements": -1}]}, r"tensors\[0\]"),
        ({"tensors": [{"name": "x", "tensor": "x", "elements": 1, "kept": []}]}, r"tensors\[0\]"),
        ({"tensors": [{"name": "x", "tensor": "x", "elements": 10**400, "kept": [1]}]}, r"tensors\[0\]"),
        (
            {"tensors": [{"name": "x", "tensor": "x", "elements": 1, "kept": [1] * n} for n in (1, 2)]},
            "number of models",
        ),
        ({"inputs": [{"path": "x", "files": [{"path": "x"}]}]}, r"inputs\[0\]"),
        ({"files": []}, "files is no dict"),
        ({"notes": [1]}, r"notes\[0\]"),
        ({"format": 1}, "not a manifest that this version understands"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_manifests_of_no_merge_are_refused(merged: Path, tmp_path: Path, changes: dict[str, Any], match: str):
    out = copy_of(merged, tmp_path / "out")
    edit(out, **changes)
    with pytest.raises(InputError, match=match):
        write_report(out)
    assert not (tmp_path / "out-report").exists()


@pytest.mark.usefixtures("undrawn")
def test_the_report_has_a_folder_of_its_own(merged: Path, tmp_path: Path):
    out = copy_of(merged, tmp_path / "out")
    page = write_report(out, inputs=False)
    assert page == tmp_path / "out-report" / PAGE
    assert verify(out) == []
    with pytest.raises(InputError, match="out-report: is not empty"):
        write_report(out)
    (page.parent / "mine.txt").write_text("kept")
    (page.parent / "overlap.png").write_bytes(b"of an earlier report")
    assert write_report(out, overwrite=True, inputs=False) == page
    assert (page.parent / "mine.txt").exists()
    assert not (page.parent / "overlap.png").exists()
    with pytest.raises(InputError, match="holds the merge"):
        write_report(out, out, overwrite=True)
    with pytest.raises(InputError, match="is not a folder"):
        write_report(out, out / "README.md", overwrite=True)
    assert write_report(out, out / "report", inputs=False).exists()
    assert verify(out) == []


def test_folders_without_a_finished_merge_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="holds no finished merge"):
        write_report(tmp_path)


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_what_is_missing_is_named_with_the_extra(merged: Path, monkeypatch: pytest.MonkeyPatch, missing: str):
    for name in [name for name in sys.modules if name.startswith("sta_kernels.report.")]:
        if name.rpartition(".")[2] in ("charts", "sections", "page"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["sta_kernels.report"], "page", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"{missing}.* is missing; pip install '.\[plot\]'"):
        write_report(merged)


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_where_the_page_is(merged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report", str(merged), "--out", str(tmp_path / "r"), "--no-inputs"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'r' / PAGE}\n"
    assert cli.main(["report", str(merged), "--out", str(tmp_path / "r"), "--no-inputs"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main(["report", str(merged), "--out", str(tmp_path / "r"), "--no-inputs", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("name", "layer", "kind"),
    [
        ("blocks.3.attn.query.weight", "blocks.3", "attn.query.weight"),
        ("model.layers.12.mlp.experts.7.w1", "model.layers.12", "mlp.experts.*.w1"),
        ("layers.0.attn.in_proj_weight[0:32]", "layers.0", "attn.in_proj_weight[0:32]"),
        ("conv1.weight", facts.OUTSIDE, "conv1.weight"),
    ],
)
def test_names_tell_layer_and_type(name: str, layer: str, kind: str):
    assert facts.layer_of(name) == layer
    assert facts.type_of(name) == kind


def test_models_are_called_by_what_tells_them_apart():
    assert facts._ends(["/a/mnist/", "/a/svhn", "/a/mnist/"]) == ["mnist", "svhn", "mnist"]
    assert facts._ends(["/a/mnist/final", "/a/svhn/final"]) == ["mnist/final", "svhn/final"]
    assert facts._ends(["a", "b/a"]) == ["a", "b/a"]
    assert facts._ends([]) == []


def test_layers_go_by_number():
    names = ["other.1", "blocks.10", facts.OUTSIDE, "blocks.2"]
    assert facts.in_layers(names) == ["blocks.2", "blocks.10", "other.1", facts.OUTSIDE]


def test_overlap_at_random_is_that_of_all_choices():
    choices = [set(chosen) for chosen in combinations(range(5), 2)]
    both = sum({0, 1} <= chosen for chosen in choices)
    either = sum(bool({0, 1} & chosen) for chosen in choices)
    assert facts.overlap_at_random([0, 0, 7, 0, 0, 0]) == pytest.approx(both / either)
    assert facts.overlap_at_random([0, 7, 0, 0, 0, 0]) == 0
    assert facts.overlap_at_random([0, 0, 0, 0, 0, 7]) == 1
    assert facts.overlap_at_random([7, 0, 0, 0, 0, 0]) == 0


def test_overlap_at_random_goes_by_what_is_kept_at_each_position():
    """One of three at half the positions, and all at the others: two on average, but no 1/3."""
    assert facts.overlap_at_random([0, 4, 0, 4]) == pytest.approx(0.6)


def overlap_text(measured: Measured) -> tuple[str, Sequence[Sequence[str]]]:
    (section,) = sections._overlap(Names(("a", "b", "c"), ("1 a", "2 b", "3 c")), measured)
    return section.text, section.tables[0].rows


@pytest.mark.usefixtures("undrawn")
def test_overlaps_that_are_printed():
    """Of eight positions, half keep model 1 alone, and half all three."""
    shared = np.full((3, 3), 4)
    shared[0, 0] = 8
    text, rows = overlap_text(Measured(np.zeros((4, 4)), shared=shared, chosen=np.array([0, 4, 0, 4])))
    assert "On average 2.00 models are kept" in text
    assert text.endswith("any two would overlap by 60.0\N{NO-BREAK SPACE}%.")
    assert [[cell.split("\N{NO-BREAK SPACE}")[0] for cell in row[1:]] for row in rows] == [
        ["–", "50.0", "50.0"], ["50.0", "–", "100.0"], ["50.0", "100.0", "–"],
    ]  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_overlaps_of_a_merge_are_those_of_its_masks(family: Any, tmp_path: Path):
    masks = []
    for name in family.base:
        rows = torch.stack([importance[name].flatten() for importance in family.importances])
        least, greatest = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        masks.append(rank_mask_literal(((rows - least) / (greatest - least)).numpy(), 1))
    mask = np.concatenate(masks, axis=1)  # at p = 0.3 of three, above the least
    out = family.merge(tmp_path / "out", parameters={"p": 0.3})
    found = measure(read_manifest(out), out)
    text, rows = overlap_text(sections.total(found.values()))
    for i, j in permutations(range(3), 2):
        share = (mask[i] & mask[j]).sum() / (mask[i] | mask[j]).sum()
        assert rows[i][j + 1] == f"{100 * share:.1f}\N{NO-BREAK SPACE}%"
    assert "any two would overlap by 33.3" in text


def test_tensors_that_are_in_no_order_come_last():
    """Cancelled is NaN where a task vector is."""

    def measured(left: float) -> Measured:
        return Measured(np.zeros((3, 3)), mass=1.0, left=left)

    shares = {"a": 0.9, "nan": float("nan"), "b": 0.1, "also": float("nan"), "c": 0.5}
    section = sections._contested(Names(("x",), ("1 x",)), {name: measured(left) for name, left in shares.items()})
    assert [row[0] for row in section.tables[0].rows] == ["b", "c", "a", "nan", "also"]
