"""Workbench: take trained networks apart.

    import workbench as wb
    model = wb.load("tiny-llama")
    variant = wb.apply(model, wb.Recipe([wb.RTN(bits=4, group_size=64)]))
    wb.inspect.layers(variant)
    wb.Bench(model)

Names are imported when they are first used: `import workbench` loads neither torch, transformers nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module that defines it.
_HOMES = {
    "Refused": "errors",
    "load": "files.load",
    "Model": "model",
    "CompressedWeight": "grid",
    "Recipe": "engine",
    "Step": "engine",
    "Variant": "engine",
    "apply": "engine",
    "compress": "engine",
    "fold": "engine.fold",
    "with_outliers": "engine",
    "plan": "engine",
    "mobilequant": "engine.integer",
    "evaluation": "measure",
    "Evaluation": "measure",
    "Quality": "measure",
    "Job": "jobs",
    "Method": "methods",
    "Statistics": "methods",
    "RTN": "methods.quantize.rtn",
    "Magnitude": "methods.prune.magnitude",
    "ErrorMap": "inspect",
    "Spectrum": "inspect",
    "Density": "inspect",
    "ErrorSpectrum": "inspect",
    "Spectra": "inspect",
    "NoiseEdges": "inspect",
    "AspectRatio": "inspect",
    "Histogram": "inspect",
    "Sensitivity": "inspect",
    "DesignSpace": "inspect",
    "Comparison": "inspect",
    "Session": "inspect",
    "KernelLab": "inspect",
    "TwoNetworks": "inspect",
    "MergedNetworks": "inspect",
    "RichLazy": "inspect",
    "Bandlimited": "inspect",
    "export": "files.export",
    "Bench": "widgets",
}
_ROOMS = (
    "engine",
    "figures",
    "files",
    "grid",
    "inspect",
    "jobs",
    "measure",
    "methods",
    "model",
    "spectra",
    "speed",
)

if TYPE_CHECKING:
    from . import (
        engine,
        figures,
        files,
        grid,
        inspect,
        jobs,
        measure,
        methods,
        model,
        spectra,
        speed,
        widgets,
    )
    from .engine import Recipe, Step, Variant, apply, compress, plan, with_outliers
    from .engine.fold import fold
    from .engine.integer import mobilequant
    from .errors import Refused
    from .files.export import export
    from .files.load import load
    from .grid import CompressedWeight
    from .inspect import (
        AspectRatio,
        Bandlimited,
        Comparison,
        Density,
        DesignSpace,
        ErrorMap,
        ErrorSpectrum,
        Histogram,
        KernelLab,
        MergedNetworks,
        NoiseEdges,
        RichLazy,
        Sensitivity,
        Session,
        Spectra,
        Spectrum,
        TwoNetworks,
    )
    from .jobs import Job
    from .measure import Evaluation, Quality, evaluation
    from .methods import Method, Statistics
    from .methods.prune.magnitude import Magnitude
    from .methods.quantize.rtn import RTN
    from .model import Model
    from .widgets import Bench


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    from .methods import METHODS  # a method is public by being registered: nothing to add here

    for known in METHODS:
        if METHODS[known].__name__ == name:
            globals()[name] = METHODS[known]
            return METHODS[known]
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_ROOMS])
