"""Measures: errors of a weight, of a layer's output and of the model; error pyramids; what a variant costs."""

from .cost import storage
from .pyramid import Cells, ErrorCells, error_cells, weight_cells
from .quality import MODEL_COLUMNS, Evaluation, Quality, evaluation
from .weight import WEIGHT_COLUMNS, OutputError, weight_errors

__all__ = [
    "MODEL_COLUMNS",
    "WEIGHT_COLUMNS",
    "Cells",
    "ErrorCells",
    "Evaluation",
    "OutputError",
    "Quality",
    "error_cells",
    "evaluation",
    "storage",
    "weight_cells",
    "weight_errors",
]
