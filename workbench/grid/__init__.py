"""Number formats and what they make: grids, blocks that share a scale, compressed weights."""

from .affine import encode, fit, int_grid, quantize
from .blocks import Blocks
from .compressed import CompressedWeight, uncompressed
from .grids import FloatGrid, Grid, IntGrid

__all__ = [
    "Blocks",
    "CompressedWeight",
    "FloatGrid",
    "Grid",
    "IntGrid",
    "encode",
    "fit",
    "int_grid",
    "quantize",
    "uncompressed",
]
