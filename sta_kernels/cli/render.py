"""Plans and results in words: the same figures as in their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sta_kernels.engine.profile import BY_WORKERS, STAGES, Profile

_STEPS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def size(count: int) -> str:
    """Bytes with three digits: ``2.68 GB``."""
    for step, unit in _STEPS:
        value = count / step
        if value >= 0.9995:  # rounds to 1
            return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"
    return f"{count} bytes"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Labels and values in two columns."""
    listed = list(rows)
    width = max(len(label) for label, _ in listed)
    return "\n".join(f"{label:<{width}}  {value}".rstrip() for label, value in listed)


def plan(summary: Mapping[str, Any], out: str) -> str:
    """What a merge will do and need, from ``Plan.summary()``."""
    models = list(summary["models"])
    rows = [("method", f"{summary['method']} (tier {summary['tier']})")]
    rows += [("models" if i == 0 else "", model) for i, model in enumerate(models)]
    rows += [
        ("output", f"{out} ({_count(summary['shards'], 'file')} of weights)"),
        ("tensors", _tensors(summary)),
        ("read", size(summary["bytes_read"])),
        ("write", size(summary["bytes_written"])),
        ("disk", f"{size(summary['disk'])} at the most"),
        ("memory", f"{size(summary['peak_memory'])} at the most, of {size(summary['max_memory'])} allowed"),
        ("device", f"{_device(summary)}: {summary['reason']}"),
        *([("", f"{size(summary['device_memory'])} of its memory")] if summary["device_memory"] else []),
        ("threads", str(summary["threads"])),
    ]
    rows += [("note", note) for note in summary["notes"]]
    return table(rows)


def result(summary: Mapping[str, Any], models: Sequence[str], out: str, seconds: float) -> str:
    """What a merge did, from ``Manifest.summary()``."""
    if summary["already_finished"]:
        return (
            f"{out} already holds this merge, of the same recipe and inputs: nothing to do; every file was read, "
            "and is as it was written"
        )
    elements = summary["elements_merged"]
    rows = [
        ("merged", f"{_count(summary['tensors_merged'], 'tensor')} ({elements:,} elements), "
                   f"{summary['tensors_copied']:,} copied"),
        ("written", f"{size(summary['bytes_written'])} in {_count(summary['files'], 'file')} to {out}, "
                    f"{seconds:.1f} s, on {_device(summary)}"),
    ]  # fmt: skip
    if summary["kept_bytes"]:
        on = f", on {', '.join(summary['devices_before'])}" if summary["devices_before"] else ""
        rows.append(("continued", f"{size(summary['kept_bytes'])} taken over from the run that was stopped{on}"))
    if summary["kept"] and elements:
        shares = list(zip(summary["kept"], models, strict=True))
        label = "kept"
        if summary["method"] == "sta_forget":
            # With only_added, the other models of that merge stand beside the one that is forgotten.
            label, shares = "subtracted", [share for share in shares if share[0]] or shares[:1]
        rows += [(label if i == 0 else "", f"{count / elements:.1%} of {m}") for i, (count, m) in enumerate(shares)]
    if summary["unrouted"]:
        rows.append(("none kept", f"at {summary['unrouted']:,} positions ({summary['unrouted'] / elements:.1%})"))
    return table(rows)


def _device(summary: Mapping[str, Any]) -> str:
    return f"{summary['device']} ({summary['backend']})"


def _tensors(summary: Mapping[str, Any]) -> str:
    parts = [f"{summary['tensors_merged']:,} merged ({summary['elements_merged']:,} elements)"]
    parts += [f"{summary[f'tensors_{way}']:,} {way}" for way in ("converted", "copied") if summary[f"tensors_{way}"]]
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def profile(times: Profile) -> str:
    """Where the time of a merge went, stage by stage, as it passed for who waited."""
    known = {stage: times.wall(stage) for stage in STAGES}
    known["other"] = max(times.total - sum(known.values()), 0.0)
    rows = [
        (stage, f"{seconds:8.3f} s  {seconds / times.total:5.1%}" + (" *" if stage in BY_WORKERS else ""))
        for stage, seconds in known.items()
        if seconds >= 0.0005
    ]
    note = f"* of workers: the mean over {times.threads}"
    return table([*rows, ("total", f"{times.total:8.3f} s  with start-up"), ("", note)])
