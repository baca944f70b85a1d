"""Inspectors: headless objects that compute, tabulate and draw what the bench shows; and measures as tables."""

from .alignment import TwoNetworks
from .comparison import Comparison
from .convergence import Convergence
from .curves import Curve, Histogram, Profile, Spectrum
from .density import Density, ErrorSpectrum
from .design_space import DesignSpace
from .error_map import ErrorMap, Tile, Window
from .formats import Formats, NumberLines, distributions, number_lines
from .kernel_lab import KernelLab
from .merging import MergedNetworks
from .model_map import MAP_MEASURES
from .moves import Moves
from .outliers import Channels, Outliers, outliers
from .regime import Bandlimited, RichLazy
from .sensitivity import Sensitivity
from .session import Answer, Session
from .spectra import AspectRatio, NoiseEdges, Spectra
from .tables import layer, layers, measured, model

# What the lower half of the bench shows of a weight: its name there -> inspector.
CURVES: dict[str, type[Curve]] = {
    "histogram": Histogram,
    "spectrum": Spectrum,
    "density": Density,
    "error spectrum": ErrorSpectrum,
    "rows & columns": Profile,
    "convergence": Convergence,
}

__all__ = [
    "CURVES",
    "MAP_MEASURES",
    "Answer",
    "AspectRatio",
    "Bandlimited",
    "Channels",
    "Comparison",
    "Convergence",
    "Density",
    "DesignSpace",
    "ErrorMap",
    "ErrorSpectrum",
    "Formats",
    "Histogram",
    "KernelLab",
    "MergedNetworks",
    "Moves",
    "NoiseEdges",
    "NumberLines",
    "Outliers",
    "Profile",
    "RichLazy",
    "Sensitivity",
    "Session",
    "Spectra",
    "Spectrum",
    "Tile",
    "TwoNetworks",
    "Window",
    "distributions",
    "layer",
    "layers",
    "measured",
    "model",
    "number_lines",
    "outliers",
]
