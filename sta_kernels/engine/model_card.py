"""The model card of a merged checkpoint: a README.md with the metadata that model hubs read."""

from __future__ import annotations

import json

from sta_kernels._version import __version__
from sta_kernels.engine.jobs import Plan
from sta_kernels.recipe import Recipe


def model_card(recipe: Recipe, plan: Plan) -> str:
    """Describe a merge; the same text for the same recipe.

    Args:
        recipe: of the merge.
        plan: of the merge.
    """
    copied = plan.tensors("copy") + plan.tensors("convert")
    named = [spec.name or spec.model for spec in recipe.models]
    sources = list(dict.fromkeys([*([recipe.base] if recipe.base else []), *named]))
    front = ["---", "base_model:", *(f"- {json.dumps(source)}" for source in sources)]
    front += ["tags:", "- merge", "- sta_kernels", "---"]
    lines = [
        "# Merged model",
        "",
        f"Made with sta_kernels {__version__}: `{recipe.method_name}`, {recipe.method.summary}.",
        "",
        *([f"Base: `{recipe.base}`", ""] if recipe.base else []),
        *([f"Target: `{recipe.target}`", ""] if recipe.target else []),
        "Models:",
        "",
        *(f"{i + 1}. `{name}`" for i, name in enumerate(named)),
        "",
        f"Tensors: {plan.tensors('merge')} merged, {copied} copied. The recipe:",
        "",
        "```yaml",
        recipe.text.rstrip("\n"),
        "```",
    ]
    return "\n".join([*front, "", *lines, ""])
