"""Inspectors: headless objects that compute, tabulate and draw what the bench shows; and measures as tables."""

from .curves import CURVES, Histogram, Profile, Spectrum
from .error_map import ErrorMap, Tile, Window
from .session import MAP_MEASURES, Answer, Session
from .tables import layer, layers, measured, model

__all__ = [
    "CURVES",
    "MAP_MEASURES",
    "Answer",
    "ErrorMap",
    "Histogram",
    "Profile",
    "Session",
    "Spectrum",
    "Tile",
    "Window",
    "layer",
    "layers",
    "measured",
    "model",
]
