"""Integers: a Llama whose scales, clips and ranges are learned end to end, run without a float (MobileQuant)."""

from .compare import COMPARED_COLUMNS, Comparison, compare
from .kept import load_variant, save_variant
from .network import IntegerNetwork
from .simulation import simulated
from .variant import QUALITY_COLUMNS, RANGE_COLUMNS, IntegerVariant, mobilequant

__all__ = [
    "COMPARED_COLUMNS",
    "QUALITY_COLUMNS",
    "RANGE_COLUMNS",
    "Comparison",
    "IntegerNetwork",
    "IntegerVariant",
    "compare",
    "load_variant",
    "mobilequant",
    "save_variant",
    "simulated",
]
