"""Integers: a Llama whose scales, clips and ranges are learned end to end, run without a float (MobileQuant)."""

from .compare import COMPARED_COLUMNS, Comparison, compare
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
    "mobilequant",
    "simulated",
]
