"""The kernels in C++, by the names that the table shows: one file each in kernels/, several widths of some."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

from ..time import Candidate
from . import machine
from .candidates import fp32_candidate, product_candidate
from .cpp import source
from .operands import FEW, Operands, allowed
from .product import Product
from .rungs import REGISTERED, Rung

if TYPE_CHECKING:
    import numpy as np

FP32 = ("naive", "reordered", "register-tiled", "threaded")
# (name, file, weight): what is shown of the widths that each file has
LOW_BIT = (
    *((f"cpu-w{bits}-dequant", "dequant", f"int{bits}") for bits in (8, 4, 3, 2)),
    ("cpu-nf4-dequant", "dequant", "nf4"),
    ("cpu-w8a8-dot", "dot", "int8-channel"),
    *((f"cpu-w{bits}-dot", "dot", f"int{bits}") for bits in (8, 4, 3, 2)),
    ("cpu-w1-dot", "dot", "binary"),
    ("cpu-nf4-dot", "dot", "nf4"),
    *((f"cpu-w{bits}-lut", "lut", f"int{bits}") for bits in (4, 3, 2)),
    ("cpu-w1-lut", "lut", "binary"),
)
NOTES = {
    "dequant": "activations in fp32; one thread",
    "dot": "activations in 8 bits, a scale per 128; one thread",
    "lut": "tables of activations in 8 bits, a scale per 128; one thread",
}


def _fp32_rung(name: str) -> Rung:
    stem = name.replace("-", "_")
    of = source(stem)
    note = f"up to {machine.cores()} threads" if name == "threaded" else "one thread"
    make = functools.partial(_fp32, f"cpu-{name}", stem)
    return Rung(f"cpu-{name}", 32, of.idea, note, make, cpp=stem, gain=of.gain)


def _low_bit_rung(name: str, stem: str, weight: str) -> Rung:
    of = source(stem)
    per_token = weight == "int8-channel"
    note = "weights per row and activations per token in 8 bits; one thread" if per_token else NOTES[stem]
    bits = {"nf4": 4, "binary": 1}.get(weight) or int(weight[3])
    make = functools.partial(_low_bit, name, stem, weight, per_token)
    return Rung(name, bits, of.idea, note, make, cpp=stem, gain=of.gain_at(bits))


def _fp32(name: str, stem: str, sets: Operands) -> Candidate:
    library = source(stem).library(machine.isa())
    threads = machine.cores() if stem == "threaded" else 1

    def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (a, b, c)]
        library.product(*pointers, a.shape[0], b.shape[1], a.shape[1], threads)

    return fp32_candidate(name, sets, product)


def _low_bit(name: str, stem: str, weight: str, per_token: bool, sets: Operands) -> Candidate:
    of = source(stem)
    low, expected, lost = sets.low_bit(weight)
    packed = sets.packed(weight, of.packing)
    product = Product(of, packed[0], sets.a.shape[0], per_token=per_token)
    tolerance = of.tolerance
    if expected.values.size <= FEW:
        tolerance = allowed(tolerance, sets.a, low.dequantize(), expected)
    return product_candidate(name, tolerance, product, packed, sets.a, expected=expected, weight_error=lost)


for _made in (*map(_fp32_rung, FP32), *(_low_bit_rung(*case) for case in LOW_BIT)):
    REGISTERED[_made.name] = _made
