"""What a multiply-accumulate would cost on an FPGA, for integers and minifloats. **Indicative only.**

A reconstruction: the cost model of the minifloat paper (Aggarwal et al. 2023, "Shedding the Bits") could not be read,
so this is an analytic one. Widths are exact: a product is kept in full, and sums in a fixed-point register that holds
the largest of them without rounding (Kulisch). The prices in LUTs are placeholders, to be fitted to synthesis results:
change them in `LutPrices`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ..errors import Refused
from ..model import Layer, Model

INDICATIVE = "indicative: an analytic cost model with placeholder prices, not synthesis"
COST_COLUMNS = {
    "product_bits": "width of an exact product, with its sign",
    "accumulator_bits": "width of an exact sum of K products",
    "multiplier": "LUTs of the product of the significands",
    "exponent_adder": "LUTs of the sum of the exponents",
    "shifter": "LUTs that align a product in the accumulator",
    "accumulator": "LUTs of the accumulator's adder",
    "luts": f"LUTs of one multiply-accumulate; {INDICATIVE}",
}


class Number(BaseModel):
    """A number format as hardware sees it: an integer of `significand` bits (sign included), or a float whose
    significand of M + 1 bits (the hidden one included) is shifted by one of `exponent_bits`' exponents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    significand: int = Field(ge=1, le=16)
    exponent_bits: int = Field(default=0, ge=0, le=7)  # 0: an integer

    @classmethod
    def of(cls, name: str) -> Number:
        """int4, or e2m1. Refused for formats whose hardware this model does not know (codebooks, shared exponents)."""
        if match := re.fullmatch(r"int([1-9]|1[0-6])", name):
            return cls(significand=int(match[1]))
        if match := re.fullmatch(r"e([1-7])m([0-9])", name):
            return cls(significand=int(match[2]) + 1, exponent_bits=int(match[1]))
        raise Refused(
            f"the cost model knows no format {name!r}: take int3 to int8, or e{{E}}m{{M}} such as e2m1"
        )

    @property
    def bits(self) -> int:
        """Of one code, with its sign."""
        return self.significand + self.exponent_bits if self.exponent_bits else self.significand

    @property
    def shifts(self) -> int:
        """How far the significand can be shifted: exponents 1 to 2^E - 1 (subnormals have that of 1), so 2^E - 2."""
        return 2**self.exponent_bits - 2 if self.exponent_bits else 0

    @property
    def largest(self) -> int:
        """The largest magnitude in units of the smallest; the lowest integer is two's complement's."""
        if not self.exponent_bits:
            return 2 ** (self.significand - 1)
        return (2**self.significand - 1) << self.shifts


class LutPrices(BaseModel):
    """LUTs for each bit of work. Placeholders: edit them, or fit them to your synthesis tool's reports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    multiplier: float = Field(default=1.0, ge=0, description="a partial product of one bit by one bit")
    exponent_adder: float = Field(default=1.0, ge=0, description="a bit of the exponent's sum")
    shifter: float = Field(
        default=0.5, ge=0, description="a bit of one stage of the shifter: two 2:1 choices fit a 6-LUT"
    )
    accumulator: float = Field(default=1.0, ge=0, description="a bit of the accumulator's adder")


class CostModel(BaseModel):
    """LUTs of one multiply-accumulate of `weight` x `activation` numbers, K of which are summed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prices: LutPrices = LutPrices()

    def mac(self, weight: Number, activation: Number, k: int) -> dict[str, float]:
        """The columns of COST_COLUMNS for a sum of k products."""
        product, total = product_bits(weight, activation), accumulator_bits(weight, activation, k)
        shifts = weight.shifts + activation.shifts
        # An integer, and E1Mx which is one, has no exponent to add.
        adder = (
            max(weight.exponent_bits, activation.exponent_bits) + 1
            if weight.shifts and activation.shifts
            else 0
        )
        stages = math.ceil(math.log2(shifts + 1))
        parts = {
            "multiplier": self.prices.multiplier * weight.significand * activation.significand,
            "exponent_adder": self.prices.exponent_adder * adder,
            "shifter": self.prices.shifter * product * stages,
            "accumulator": self.prices.accumulator * total,
        }
        return {"product_bits": product, "accumulator_bits": total, **parts, "luts": sum(parts.values())}

    def model(
        self, formats: Mapping[str, tuple[Number, Number]], work: Mapping[str, Work]
    ) -> dict[str, float]:
        """LUTs x MACs of the layers that `formats` names (weight, activation), and the mean LUTs of a MAC."""
        spent = {
            name: work[name].macs * self.mac(*pair, work[name].k)["luts"] for name, pair in formats.items()
        }
        macs = sum(work[name].macs for name in formats)
        return {"lut_macs": sum(spent.values()), "macs": macs, "luts_per_mac": sum(spent.values()) / macs}


def product_bits(a: Number, b: Number) -> int:
    """Bits of an exact product with its sign: b1 + b2 for integers, 2 (M + 1) + 2 (2^E - 2) + 1 for two EeMm."""
    return (a.largest * b.largest).bit_length() + 1


def accumulator_bits(a: Number, b: Number, k: int) -> int:
    """Bits of a fixed-point register that sums k products exactly (Kulisch): ceil(log2 k) more than one product."""
    return product_bits(a, b) + math.ceil(math.log2(max(k, 1)))


class Work(BaseModel):
    """What one input costs in a layer: `macs` multiply-accumulates, in sums of `k` products."""

    model_config = ConfigDict(frozen=True)

    macs: int
    k: int


def work_of(model: Model, layers: Sequence[Layer], batch: Tensor) -> dict[str, Work]:
    """The work of each layer for one input (an image; a window of tokens), in the order in which they run. `batch` is
    any input to run once. Layers that no input rows enter (embeddings) are absent."""
    rows: dict[str, int] = {}
    sizes = {layer.name: layer for layer in layers}

    def hear(layer: Layer, x: Tensor) -> None:
        rows[layer.name] = rows.get(layer.name, 0) + len(x)

    with model.runner.inputs_of(list(layers), hear):
        model.runner.logits(batch[:1])
    return {n: Work(macs=count * sizes[n].parameters, k=sizes[n].shape[1]) for n, count in rows.items()}
