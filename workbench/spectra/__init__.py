"""Spectra of weight matrices: singular values, heavy-tail fits, the bulk of noise, ranks and the edge of the
compression error.

Plain matrices [out, in] and convolutions in, numbers out; this room knows no models. `values` is the road to singular
values, `matrices` how a weight becomes matrices, `esd` their pooled spectrum; `powerlaw`, `alternatives`, `hill`,
`farms` fit its tail, `bulk` and `randomized` tell it from noise; `table` is one row per weight, `edge` before and after
compression, `allocation` shares from alpha.
"""

from workbench.spectra import alignment, bandlimited, regime
from workbench.spectra.allocation import shares
from workbench.spectra.alternatives import Alternative, best_tail, compare_tails
from workbench.spectra.bulk import Bulk, fit_bulk, median_bulk, mp_density, mp_edges, tracy_widom_edge
from workbench.spectra.columns import COLUMNS, EXTRAS
from workbench.spectra.edge import (
    NoiseEdge,
    detection_threshold,
    noise_density,
    noise_edge,
    predicted_variance,
)
from workbench.spectra.esd import ESD, esd
from workbench.spectra.farms import Farms, farms
from workbench.spectra.hill import ESTIMATORS, hill
from workbench.spectra.matrices import CONVOLUTIONS, Matrices, head_matrices, matrices
from workbench.spectra.powerlaw import TailFit, TailScan, fit_from, fit_tail, scan_tail
from workbench.spectra.randomized import randomized_eigenvalues, shuffled
from workbench.spectra.subspace import Overlap, Spike, kept_directions, overlap, predicted_spike
from workbench.spectra.table import (
    Reading,
    effective_rank,
    failed_row,
    participation_ratio,
    spectrum_row,
    spectrum_row_of,
)
from workbench.spectra.values import fastest_solver, live_singular_values, singular_values, spectral_norm

__all__ = [
    "Alternative",
    "Bulk",
    "COLUMNS",
    "CONVOLUTIONS",
    "ESD",
    "ESTIMATORS",
    "EXTRAS",
    "Farms",
    "Matrices",
    "NoiseEdge",
    "Reading",
    "TailFit",
    "TailScan",
    "alignment",
    "bandlimited",
    "best_tail",
    "compare_tails",
    "detection_threshold",
    "effective_rank",
    "esd",
    "failed_row",
    "farms",
    "fastest_solver",
    "fit_bulk",
    "fit_from",
    "fit_tail",
    "head_matrices",
    "hill",
    "live_singular_values",
    "matrices",
    "median_bulk",
    "mp_density",
    "mp_edges",
    "noise_edge",
    "participation_ratio",
    "predicted_variance",
    "randomized_eigenvalues",
    "regime",
    "scan_tail",
    "shares",
    "shuffled",
    "singular_values",
    "spectral_norm",
    "spectrum_row",
    "spectrum_row_of",
    "tracy_widom_edge",
    "Overlap",
    "Spike",
    "kept_directions",
    "overlap",
    "predicted_spike",
    "noise_density",
]
