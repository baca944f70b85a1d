"""Inspectors: headless objects that compute, tabulate and draw what the bench shows; and measures as tables."""

from .tables import layers, measured, model

__all__ = ["layers", "measured", "model"]
