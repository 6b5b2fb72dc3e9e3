"""The two tables of all methods in docs/methods.md, from the registry: one to choose by, one of what each costs.

Traffic is that of a square float32 matrix of four models, or as many as the method takes, streamed in tiles, with the
parameters below; everything else is as the methods themselves declare it to the engine.
"""

from __future__ import annotations

import re
from typing import Any

from sta_kernels import methods, ops
from sta_kernels.engine.flowing import passes_of, statistics_bytes
from sta_kernels.engine.jobs import Job, Operand
from sta_kernels.methods.base import REQUIRED, Method, Settings
from sta_kernels.recipe.parameters import MERGEKIT_METHODS

SIDE = 4096
MODELS = 4
CHOSEN: dict[str, Any] = {"density": 0.5, "select_topk": 0.5, "task": 0, "t": 0.5, "coefficients": [0.3] * MODELS}
"""Values of parameters whose defaults make a method do less than it can, or that have none."""
LEARNED = {"adamerging": "coefficients that `sk.AdaMerging` learns on unlabelled inputs"}
"""What parameters without a default are made of, where that is data."""


def base_of(method: Method) -> str:
    """Whether a method merges differences from a base."""
    roles = method.usual_roles
    return "no" if not roles.base else "optional" if roles.base_optional else "yes"


def number_of_models(method: Method) -> str:
    """How many models it takes, a base that it reads as such not counted."""
    least, most = method.models
    return f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}"


def data_of(method: Method) -> str:
    """What has to be computed on data before a merge."""
    if not method.usual_roles.importance:
        return LEARNED.get(method.name, "no")
    source = re.sub(r"sk\.\w+(\(.*?\))?", r"`\g<0>`", method.data.written_by)
    whose = "" if " of " in source else " of each model"
    found = method.data.alternative(Settings({parameter.name: parameter.default for parameter in method.parameters}))
    return f"{source}{whose}" + (f"; none with `{found[0]}: {str(found[1]).lower()}`" if found else "")


def choice(method: Method) -> str:
    """One line of the table to choose by."""
    known = "yes" if method.name in MERGEKIT_METHODS else "no"
    name = f"[`{method.name}`](#{method.name})"
    cells = [name, method.summary, known, base_of(method), number_of_models(method), data_of(method)]
    return f"| {' | '.join(cells)} |"


def choice_table() -> str:
    """The table to choose by, as Markdown."""
    head = "| method | what it does | in mergekit | needs a base | models | needs data |"
    return "\n".join(
        [head, "| --- | --- | --- | --- | --- | --- |", *(choice(methods.get(n)) for n in methods.names())]
    )


def settings_of(method: Method) -> tuple[Settings, int]:
    """Representative settings, and for how many models."""
    least, most = method.models
    n_models = max(least, min(MODELS, most or MODELS))
    known = {parameter.name: parameter for parameter in method.parameters}
    chosen = {name: value for name, value in CHOSEN.items() if name in known}
    needed = [name for name, parameter in known.items() if parameter.default is REQUIRED and name not in chosen]
    if needed:
        raise ValueError(f"{method.name}: {', '.join(needed)} has no default: choose a value for the table")
    if method.name == "sta_forget":
        n_models = 1
    return methods.resolve(method, n_models, **chosen), n_models


def job_of(method: Method) -> Job:
    """The merge of one matrix."""
    settings, n_models = settings_of(method)
    roles = method.roles(settings)
    shape = (SIDE, SIDE)
    size = SIDE * SIDE
    operands = [Operand("model", i, "w", "F32") for i in range(n_models)]
    if roles.base:
        operands.insert(0, Operand("base", n_models, "w", "F32"))
    if roles.importance and method.data.shape(shape) is not None:
        operands += [Operand("importance", n_models + 1 + i, "w", "F32") for i in range(n_models)]
    return Job("w", "w", shape, "merge", 0, size, "F32", tuple(operands), settings=settings, block=size, model=size)


def row(method: Method) -> str:
    """One line of the table of costs."""
    job = job_of(method)
    rounds = list(job.rounds(method))
    passes = 1 + sum(max(passes_of(statistic, flowing=True) for statistic, _ in round_) for round_ in rounds)
    read = job.bytes_read + statistics_bytes(job, method, ("segment", "block", "model"), flowing=True)
    tier = max({method.tier} | {statistic.tier for round_ in rounds for statistic, _ in round_})
    compute = ("torch.linalg", "torch.linalg") if tier == "C" else ("native", "Triton")
    served = ["yes" if hasattr(ops, method.name) else "no", "yes", "yes", "yes"]
    traffic = "–" if tier == "C" else f"{read / job.size + job.out_unit:g}"
    pieces = "1, whole" if method.whole else str(passes)
    return f"| {' | '.join([f'`{method.name}`', *served, *compute, tier, traffic, pieces])} |"


def method_table() -> str:
    """The table of costs, as Markdown."""
    head = "| method | op | state dicts | files | recipes | CPU | GPU | tier | bytes per entry | passes |"
    rule = "| --- | --- | --- | --- | --- | --- | --- | --- | ---: | ---: |"
    return "\n".join([head, rule, *(row(methods.get(name)) for name in methods.names())])
