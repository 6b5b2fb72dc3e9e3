"""Recipes: mergekit's YAML, with STA's keys, as data that the engine can plan from."""

from sta_kernels.recipe.depth import relative_depths
from sta_kernels.recipe.models import ModelSpec
from sta_kernels.recipe.recipe import Recipe
from sta_kernels.recipe.schema import AUTO

__all__ = ["AUTO", "ModelSpec", "Recipe", "relative_depths"]
