"""Inspectors: headless objects that compute, tabulate and draw what the bench shows; and measures as tables."""

from .comparison import Comparison
from .convergence import Convergence
from .curves import CURVES, Histogram, Profile, Spectrum
from .design_space import DesignSpace
from .error_map import ErrorMap, Tile, Window
from .formats import Formats, NumberLines, distributions, number_lines
from .moves import Moves
from .outliers import Channels, Outliers, outliers
from .sensitivity import Sensitivity
from .session import MAP_MEASURES, Answer, Session
from .tables import layer, layers, measured, model

__all__ = [
    "CURVES",
    "MAP_MEASURES",
    "Answer",
    "Channels",
    "Comparison",
    "Convergence",
    "DesignSpace",
    "ErrorMap",
    "Formats",
    "Histogram",
    "Moves",
    "NumberLines",
    "Outliers",
    "Profile",
    "Sensitivity",
    "Session",
    "Spectrum",
    "Tile",
    "Window",
    "distributions",
    "layer",
    "layers",
    "measured",
    "model",
    "number_lines",
    "outliers",
]
