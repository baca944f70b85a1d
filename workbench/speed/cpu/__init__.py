"""The kernels that run on the CPU, what they multiply, and what there is to know of the machine."""

from .candidates import product_candidate
from .cpp import Source, source
from .machine import busy, cache_bytes, clock_mhz, cores, cpu_name, free_bytes, isa, paths
from .operands import FEW, Operands, allowed, fp32_tolerance, operand_sets
from .product import Packed, Product
from .rungs import BASELINE, REGISTERED, Rung, rung, rungs

__all__ = [
    "BASELINE",
    "FEW",
    "Operands",
    "Packed",
    "Product",
    "REGISTERED",
    "Rung",
    "Source",
    "allowed",
    "busy",
    "cache_bytes",
    "clock_mhz",
    "cores",
    "cpu_name",
    "fp32_tolerance",
    "free_bytes",
    "isa",
    "operand_sets",
    "paths",
    "product_candidate",
    "rung",
    "rungs",
    "source",
]
