"""Recipes, the walk over a model's layers, variants and their history."""

from .history import History
from .plan import Plan, PlannedLayer, plan
from .recipe import Recipe, Step
from .statistics import collect
from .variant import Variant, apply, compress

__all__ = [
    "History",
    "Plan",
    "PlannedLayer",
    "Recipe",
    "Step",
    "Variant",
    "apply",
    "collect",
    "compress",
    "plan",
]
