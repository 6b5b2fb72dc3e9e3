"""The parts of the page: tables and pictures, from facts and measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sta_kernels.engine import Manifest
from sta_kernels.report import charts, facts
from sta_kernels.report.charts import Picture
from sta_kernels.report.facts import Counted, Names
from sta_kernels.report.measures import Measured

_ROWS = 1000
"""Rows of the longest table: a page with more of them is slow on a phone."""
_DRAWN = 40
"""Rows of the tallest picture."""
_CONTESTED = 20
RESULT = "result"
_PERCENT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True)
class Table:
    """Rows whose first cell names them.

    Attributes:
        title: above it, where it is folded away; "" for one that is always seen.
        head: names of the columns.
        rows: cells.
        text: columns besides the first that hold no numbers.
        note: below it.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One heading, and what stands under it."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def of_merge(manifest: Manifest, measured: Mapping[str, Measured] | None) -> list[Section]:
    """All sections that there is something to say in.

    Args:
        manifest: of the merge.
        measured: sums of every merged segment, where the inputs could be read.
    """
    names = facts.names_of(manifest)
    sections = [_models(manifest, names, measured), *_rates(manifest, names)]
    if measured:
        whole = total(measured.values())
        sections += _overlap(names, whole)
        sections += _vectors(names, measured, whole)
        sections.append(_contested(names, measured))
    if any("kept" in record for record in manifest.tensors):
        sections.append(_tensors(manifest, names))
    return sections


def total(parts: Iterable[Measured]) -> Measured:
    """The sums of several segments, at least one."""
    first, *others = parts
    result = replace(first)
    for part in others:
        result.add(part)
    return result


def _what(manifest: Manifest) -> str:
    """What the counters count."""
    return "subtracted" if manifest.method == "sta_forget" else "kept"


def _models(manifest: Manifest, names: Names, measured: Mapping[str, Measured] | None) -> Section:
    head, columns = ["model"], [list(names.short)]
    counted = facts.counted(manifest, lambda name: "").get("")
    if counted is not None:
        head.append(_what(manifest))
        columns.append(list(map(percent, counted.rates)))
    text = ""
    if measured:
        whole = total(measured.values())
        norms = whole.norms[:-1]
        head += ["‖τ‖", "‖τ‖ / ‖θ0‖", f"cos(τ, {RESULT})"]
        columns.append(list(map(figure, norms)))
        columns.append([percent(norm / whole.base**0.5 if whole.base else np.nan) for norm in norms])
        columns.append(list(map(decimal, whole.cosines[-1, :-1])))
        text = (
            f"τ is a model's difference from the base θ0, over all that was merged; the {RESULT}'s own difference "
            f"has the norm {figure(whole.norms[-1])}."
        )
    head.append("as the recipe names it")
    columns.append(list(names.full))
    return Section("Models", text, tables=[Table("", head, list(zip(*columns, strict=True)), (len(head) - 1,))])


def _rates(manifest: Manifest, names: Names) -> list[Section]:
    by_layer = facts.counted(manifest, facts.layer_of)
    if not by_layer:
        return []
    by_type = facts.counted(manifest, facts.type_of)
    layers, types = facts.in_layers(by_layer), sorted(by_type, key=lambda name: -by_type[name].elements)
    what, whole = _what(manifest), facts.counted(manifest, lambda name: "")[""]
    overall = "; ".join(f"{name}: {percent(rate)}" for name, rate in zip(names.short, whole.rates, strict=True))
    series = {name: [100 * by_layer[layer].rates[i] for layer in layers] for i, name in enumerate(names.short)}
    drawn = types[:_DRAWN]
    return [
        Section(
            f"Share {what} by layer",
            f"The share of a layer's merged entries that is {what} of each model.",
            [
                charts.lines(
                    "rates_by_layer",
                    f"Share {what} per layer, a line per model; the numbers are in the table. Overall, {overall}.",
                    _ticks(layers),
                    series,
                    f"{what}, %",
                )
            ],
            [_counted("The numbers, by layer", "layer", names, [(layer, by_layer[layer]) for layer in layers])],
        ),
        Section(
            f"Share {what} by type of tensor",
            "A type is a tensor's name without its layer." + _cut(len(types), _DRAWN, "types are drawn, the largest"),
            [
                charts.shades(
                    "rates_by_type",
                    f"Share {what} by type of tensor and model, as a heat map; the numbers are in the table.",
                    drawn,
                    names.short,
                    [by_type[name].rates for name in drawn],
                    whole_percent,
                )
            ],
            [_counted("The numbers, by type", "type", names, [(name, by_type[name]) for name in types])],
        ),
    ]


def _overlap(names: Names, whole: Measured) -> list[Section]:
    if whole.shared is None or whole.chosen is None or len(names.short) < 2:
        return []
    kept = np.diag(whole.shared)
    overlap = whole.shared / np.maximum(kept[:, None] + kept[None, :] - whole.shared, 1)
    chance = facts.overlap_at_random(whole.chosen.tolist())
    text = (
        "Of the entries that at least one of two models keeps, the share that both keep. On average "
        f"{decimal(kept.sum() / whole.chosen.sum())} models are kept at a position; as many chosen at random at each, "
        f"any two would overlap by {percent(chance)}."
    )
    pairs = "Overlap of any two models' selections, as a heat map; the numbers are in the table."
    return [_square("Overlap of selections", "overlap", text, pairs, names.short, overlap, percent, whole_percent)]


def _vectors(names: Names, measured: Mapping[str, Measured], whole: Measured) -> list[Section]:
    labels = [*names.short, RESULT]
    by_layer: dict[str, list[Measured]] = {}
    for name, each in measured.items():
        by_layer.setdefault(facts.layer_of(name), []).append(each)
    sums = {layer: total(by_layer[layer]) for layer in facts.in_layers(by_layer)}
    shares = {
        layer: [norm / each.base**0.5 if each.base else 0.0 for norm in each.norms] for layer, each in sums.items()
    }
    series = {label: [100 * shares[layer][i] for layer in sums] for i, label in enumerate(labels)}
    rows = [[layer, *map(percent, shares[layer])] for layer in list(sums)[:_ROWS]]
    return [
        _square(
            "Angles between task vectors",
            "cosines",
            f"Cosine of the angle between any two task vectors, and between each and what the {RESULT} adds to the "
            "base: 1 for the same direction, 0 for directions that have nothing in common.",
            "Cosines of any two task vectors, as a heat map; the numbers are in the table.",
            labels,
            whole.cosines,
            decimal,
            decimal,
        ),
        Section(
            "Norms by layer",
            "The norm of a task vector as a share of the base's, layer by layer.",
            [
                charts.lines(
                    "norms_by_layer",
                    "Norm of each task vector per layer, as a share of the base's; the numbers are in the table.",
                    _ticks(list(sums)),
                    series,
                    "of the base's norm, %",
                )
            ],
            [Table("The numbers, by layer", ["layer", *labels], rows, note=_cut(len(sums), _ROWS, "rows are shown"))],
        ),
    ]


def _square(
    title: str,
    name: str,
    text: str,
    alt: str,
    labels: Sequence[str],
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    write: Callable[[float], str],
    write_short: Callable[[float], str],
) -> Section:
    """A heat map of models against models; without the diagonal, which says nothing and would set the shades."""
    cells = [
        [None if i == j or not np.isfinite(value) else float(value) for j, value in enumerate(row)]
        for i, row in enumerate(values)
    ]
    rows = [
        [label, *("–" if value is None else write(value) for value in row)]
        for label, row in zip(labels, cells, strict=True)
    ]
    picture = charts.shades(name, alt, labels, labels, cells, write_short)
    return Section(title, text, [picture], [Table("The numbers, by pair", ["", *labels], rows)])


def _contested(names: Names, measured: Mapping[str, Measured]) -> Section:
    close = any(each.closeness is not None for each in measured.values())

    def place(item: tuple[str, Measured]) -> tuple[bool, float]:
        value = (item[1].closeness or 0.0) if close else item[1].cancelled
        return (False, -value) if np.isfinite(value) else (True, 0.0)  # NaN is in no order

    ranked = sorted(measured.items(), key=place)
    head = ["tensor", *(["closeness"] if close else []), "cancelled", "‖result − θ0‖ / ‖θ0‖"]
    rows = [
        [
            name,
            *(["–" if each.closeness is None else percent(each.closeness)] if close else []),
            percent(each.cancelled),
            percent(each.norms[-1] / each.base**0.5 if each.base else np.nan),
        ]
        for name, each in ranked[:_CONTESTED]
    ]
    cancelled = "Cancelled is the share of the task vectors that opposite signs cancel where they are simply added."
    text = (
        "Closeness is the greatest normalised importance that was dropped, divided by the least that was kept, on "
        f"average over the positions: 100{_PERCENT} is a draw everywhere. {cancelled}"
        if close
        else cancelled
    )
    return Section(
        "Most contested tensors", text, tables=[Table("", head, rows, note=_cut(len(ranked), _CONTESTED, "are shown"))]
    )


def _tensors(manifest: Manifest, names: Names) -> Section:
    rows = [(record["name"], record) for record in manifest.tensors if "kept" in record]
    counted = [(name, Counted(record["elements"], tuple(record["kept"]))) for name, record in rows]
    title = f"Every tensor: share {_what(manifest)}"
    return Section("Tensors", tables=[_counted(title, "tensor", names, counted)])


def _counted(title: str, what: str, names: Names, rows: Sequence[tuple[str, Counted]]) -> Table:
    shown = [[name, f"{each.elements:,}", *map(percent, each.rates)] for name, each in rows[:_ROWS]]
    return Table(title, [what, "elements", *names.short], shown, note=_cut(len(rows), _ROWS, "rows are shown"))


def _ticks(layers: Sequence[str]) -> list[str]:
    """Numbers alone, where all layers are numbered in one row."""
    stems = {layer.rpartition(".")[0] for layer in layers if layer != facts.OUTSIDE}
    if len(stems) > 1:
        return list(layers)
    return ["other" if layer == facts.OUTSIDE else layer.rpartition(".")[2] for layer in layers]


def _cut(count: int, most: int, said: str) -> str:
    return f" {most:,} of {count:,} {said}." if count > most else ""


def percent(share: float) -> str:
    """A share with one decimal, or two significant digits where it is small."""
    if not np.isfinite(share):
        return "–"
    if 0 < abs(share) < 1e-4:
        return f"below 0.01{_PERCENT}"
    return f"{100 * share:.1f}{_PERCENT}" if share == 0 or abs(share) >= 0.01 else f"{100 * share:.2g}{_PERCENT}"


def whole_percent(share: float) -> str:
    """A share without decimals, as it fits a field of a heat map."""
    return f"{100 * share:.0f}"


def decimal(value: float) -> str:
    """Two decimals."""
    return f"{value:.2f}" if np.isfinite(value) else "–"


def figure(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if np.isfinite(value) else "–"
