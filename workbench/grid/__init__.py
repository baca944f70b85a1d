"""Number formats and what they make: grids, blocks that share a scale, compressed weights."""

from .affine import encode, fit, int_grid, quantize
from .blocks import Blocks
from .compressed import CompressedWeight, Patch, Running, uncompressed
from .fitted import Fit
from .grids import FloatGrid, Grid, IntGrid
from .inputs import InputQuantizer
from .kinds import grid_from
from .report import Report
from .scheme import Scheme

__all__ = [
    "Blocks",
    "CompressedWeight",
    "Fit",
    "FloatGrid",
    "Grid",
    "InputQuantizer",
    "IntGrid",
    "Patch",
    "Report",
    "Running",
    "Scheme",
    "encode",
    "fit",
    "grid_from",
    "int_grid",
    "quantize",
    "uncompressed",
]
