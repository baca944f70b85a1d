"""Recipes, the walk over a model's layers, variants and their history."""

from .assign import assign, assigned, frontier, predicted, recipe_from
from .compose import compress
from .history import History
from .outliers import with_outliers
from .plan import Plan, PlannedLayer, plan
from .recipe import Recipe, Step
from .sensitivity import SENSITIVITY_COLUMNS, sensitivity
from .statistics import collect
from .variant import Variant, apply

__all__ = [
    "SENSITIVITY_COLUMNS",
    "History",
    "Plan",
    "PlannedLayer",
    "Recipe",
    "Step",
    "Variant",
    "apply",
    "assign",
    "assigned",
    "collect",
    "compress",
    "frontier",
    "plan",
    "predicted",
    "recipe_from",
    "sensitivity",
    "with_outliers",
]
