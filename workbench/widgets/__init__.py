"""Thin views of headless objects. Imported at first use: `widgets.lab` opens JupyterLab without any of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Bench": "bench",
    "ErrorMapView": "error_map",
    "JobView": "job_view",
    "KernelEditor": "kernel_editor",
    "KernelLabView": "kernel_lab",
    "MethodControls": "controls",
    "ModelMap": "model_map",
    "Plot": "plot",
    "SpeedView": "speed",
}

if TYPE_CHECKING:
    from .bench import Bench
    from .controls import MethodControls
    from .error_map import ErrorMapView
    from .job_view import JobView
    from .kernel_editor import KernelEditor
    from .kernel_lab import KernelLabView
    from .model_map import ModelMap
    from .plot import Plot
    from .speed import SpeedView


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


__all__ = [
    "Bench",
    "ErrorMapView",
    "JobView",
    "KernelEditor",
    "KernelLabView",
    "MethodControls",
    "ModelMap",
    "Plot",
    "SpeedView",
]
