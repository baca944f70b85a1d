"""Spectra of weight matrices: singular values, heavy-tail fits, ranks and the edge of the compression
error.

Plain matrices [out, in] in, numbers out; this room knows no models. `values` is the road to the singular
values, `powerlaw` the tail fit, `table` one row per matrix, `edge` before and after compression.
"""

from workbench.spectra.edge import NoiseEdge, detection_threshold, noise_edge
from workbench.spectra.powerlaw import TailFit, TailScan, fit_tail, scan_tail
from workbench.spectra.table import (
    COLUMNS,
    effective_rank,
    participation_ratio,
    spectrum_row,
    spectrum_row_of,
)
from workbench.spectra.values import live_singular_values, singular_values, spectral_norm

__all__ = [
    "COLUMNS",
    "NoiseEdge",
    "TailFit",
    "TailScan",
    "detection_threshold",
    "effective_rank",
    "fit_tail",
    "live_singular_values",
    "noise_edge",
    "participation_ratio",
    "scan_tail",
    "singular_values",
    "spectral_norm",
    "spectrum_row",
    "spectrum_row_of",
]
