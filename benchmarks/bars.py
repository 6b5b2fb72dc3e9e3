"""What the project holds itself to: every bar as data, evaluated from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.records import Row

ELEMENTS = 16 << 20
N_MODELS = (2, 4, 6, 8)
MB = 10**6


@dataclass(frozen=True)
class Finding:
    """A bar's quantity as it was measured.

    Attributes:
        text: the quantity, with its spread.
        holds: whether it reaches the bar.
        row: where it comes from.
    """

    text: str
    holds: bool
    row: Row


@dataclass(frozen=True)
class Bar:
    """A claim.

    Attributes:
        what: is measured.
        needs: the bar, in words.
        find: looks it up; None where the rows do not have it.
    """

    what: str
    needs: str
    find: Callable[[Sequence[Row]], Finding | None]


def latest(rows: Sequence[Row], op: str, contender: str, case: Mapping[str, Any]) -> Row | None:
    """The last row of a contender in a case; where ``case`` names no zeros, those without."""
    wanted = {"zeros": None, **case}
    for row in reversed(rows):
        if row["op"] == op and row["contender"] == contender:
            found = row["case"]
            if all(found.get(key) == value for key, value in wanted.items()):
                return row
    return None


def bars(elements: int = ELEMENTS, threads: int = 2, megabytes: int = 500) -> list[Bar]:
    """All of them, at the sizes that they are stated for or at those of a trial."""
    common = {"elements": elements, "threads": threads}
    result = []
    for normaliser, roofline in (("given", "stream_sum"), ("computed", "stream_sum + stream_read")):
        for weights, importances, least in (
            ("float32", "float32", 0.9),
            ("bfloat16", "float32", 0.85),
            ("bfloat16", "bfloat16", 0.75),
        ):
            for n_models in N_MODELS:
                case = {"models": n_models, "weights": weights, "importances": importances, "normaliser": normaliser}
                what = f"`sta_merge`, N={n_models}, {_formats(weights, importances)}, normaliser {normaliser}"
                result.append(_share(what, "sta_merge", roofline, case | common, least))
    merge = {"models": 6, "weights": "float32", "importances": "float32", "normaliser": "given"} | common
    for contender, least in (("torch.compile", 4), ("eager", 60)):
        result.append(_speedup("`sta_merge`, N=6, float32, normaliser given", "sta_merge", contender, merge, least))
    select = {"elements": 4 * elements, "dtype": "float32", "threads": threads}
    result.append(_reads("`order_statistic`, float32, of four times as many elements", select, 6))
    for command, limit in (("sta-kernels --version", 0.25), ("sta-kernels merge --dry-run", 0.35)):
        result.append(_startup(command, limit))
    for limit in (192, 256, 2000):
        case = {"checkpoint_bytes": megabytes * MB, "models": 4, "max_memory": limit * MB, "threads": threads}
        result.append(_memory(f"merge of four {megabytes} MB checkpoints, `--max-memory {limit}MB`", case))
    result.append(_same_digests({"checkpoint_bytes": megabytes * MB, "models": 4}, (192, 256, 2000)))
    return result


def _formats(weights: str, importances: str) -> str:
    return weights if weights == importances else f"{weights} weights, {importances} importances"


def _share(what: str, op: str, roofline: str, case: Mapping[str, Any], least: float) -> Bar:
    def find(rows: Sequence[Row]) -> Finding | None:
        row = latest(rows, op, roofline, case)
        if row is None:
            return None
        share = row["share"]
        text = f"{share['medians']:.3f} ({share['p20']:.3f} to {share['p80']:.3f})"
        return Finding(text, share["medians"] >= least, row)

    return Bar(what, f"at least {least} of the bandwidth of {roofline}", find)


def _speedup(what: str, op: str, contender: str, case: Mapping[str, Any], least: float) -> Bar:
    def find(rows: Sequence[Row]) -> Finding | None:
        row = latest(rows, op, contender, case)
        if row is None:
            return None
        speedup = row["speedup"]
        text = f"{speedup['medians']:.1f}× ({speedup['p20']:.1f} to {speedup['p80']:.1f})"
        return Finding(text, speedup["medians"] >= least, row)

    return Bar(what, f"at least {least}× {contender}", find)


def _reads(what: str, case: Mapping[str, Any], most: float) -> Bar:
    def find(rows: Sequence[Row]) -> Finding | None:
        row = latest(rows, "order_statistic", "stream_read", case)
        if row is None:
            return None
        speedup = row["speedup"]
        times = {name: 1 / value for name, value in speedup.items()}
        text = f"{times['medians']:.2f}× ({times['p80']:.2f} to {times['p20']:.2f})"
        return Finding(text, times["medians"] <= most, row)

    return Bar(what, f"at most {most} times a read-only sum", find)


def _startup(command: str, most: float) -> Bar:
    def find(rows: Sequence[Row]) -> Finding | None:
        row = latest(rows, "startup", command, {"command": command})
        if row is None:
            return None
        seconds = row["seconds"]
        text = f"{seconds['p50']:.3f} s ({seconds['p20']:.3f} to {seconds['p80']:.3f})"
        return Finding(text, seconds["p50"] <= most, row)

    models = " of five models" if "merge" in command else ""
    return Bar(f"`{command}`{models}, whole process", f"within {most} s", find)


def _memory(what: str, case: Mapping[str, Any]) -> Bar:
    def find(rows: Sequence[Row]) -> Finding | None:
        row = latest(rows, "memory", "sta-kernels merge", case)
        if row is None:
            return None
        text = f"{row['rss_anon'] / MB:.1f} MB in {row['samples']} samples"
        return Finding(text, row["rss_anon"] <= case["max_memory"], row)

    return Bar(what, "RssAnon under the limit", find)


def _same_digests(case: Mapping[str, Any], limits: Sequence[int]) -> Bar:
    def find(rows: Sequence[Row]) -> Finding | None:
        found = [latest(rows, "memory", "sta-kernels merge", {**case, "max_memory": limit * MB}) for limit in limits]
        measured = [row for row in found if row is not None]
        if len(measured) < len(limits):
            return None
        digests = {row["sha256"] for row in measured}
        text = f"SHA-256 {measured[0]['sha256'][:12]}…" if len(digests) == 1 else f"{len(digests)} different results"
        return Finding(text, len(digests) == 1, measured[-1])

    return Bar(f"the same under {', '.join(map(str, limits))} MB", "the same bits", find)
