"""Which of a recipe's modules a tensor belongs to, by its name alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from sta_kernels.errors import InputError
from sta_kernels.recipe.depth import layer_counts, split_layer
from sta_kernels.recipe.models import REST, Module

_PARTS = {
    "multi_modal_projector": frozenset(("multi_modal_projector", "merger", "deepstack_merger_list")),
    "vision_tower": frozenset(("vision_tower", "vision_model", "visual")),
    "vision_model": frozenset(("vision_tower", "vision_model", "visual")),
    "encoder": frozenset(("encoder",)),
    "decoder": frozenset(("decoder",)),
}
"""Modules by mergekit's names for known architectures: what stands between dots in their tensors' names."""


def owner_of(modules: Sequence[Module], names: Collection[str], label: str) -> Callable[[str], str | None]:
    """A function that tells the module of a tensor by its name.

    A module is named as mergekit names it: where it does not know the architecture, by what stands before the number of
    its layers (``text_model.encoder.layers``), and ``default`` for all else; where it does, by one of the names above.

    Args:
        modules: of the recipe.
        names: all tensors.
        label: what errors call the model that has them.

    Raises:
        InputError: a module that is no part of the model, or a tensor in none.
    """
    stacks = layer_counts(names).keys() & {module.name for module in modules}
    parts = {name: words for name, words in _PARTS.items() if name in {module.name for module in modules} - stacks}
    rest = [module for module in modules if module.name in REST and module.name not in stacks]
    if len(rest) > 1:
        raise InputError(f"{rest[1].where}: `{rest[0].name}` takes all that is left already")

    def owner(name: str) -> str | None:
        place = split_layer(name)
        if place is not None and place[0] in stacks:
            return place[0]
        words = set(name.split("."))
        return next((part for part, own in parts.items() if own & words), rest[0].name if rest else None)

    owned = {name: owner(name) for name in names}
    for module in modules:
        if module.name not in owned.values():
            known = ", ".join(map(repr, layer_counts(names)))
            raise InputError(
                f"{module.where}: no tensor of {label} belongs to it; a module is a stack of layers ({known}), "
                f"{', '.join(_PARTS)}, or one of {', '.join(REST)} for all that is left"
            )
    left = [name for name, module in owned.items() if module is None]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise InputError(f"modules: {left[0]!r}{more} of {label} belong to none; add `default` for what is left")
    return owner
