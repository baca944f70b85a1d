"""A measured table as a document that still means something elsewhere and later: what ran it, and when."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from . import cpu, cuda, cxx
from .nvrtc import NoCompiler

if TYPE_CHECKING:
    import pandas as pd

    from .roofline import Limits

# CuPy is installed under a name per CUDA version
FORMAT = 2  # of the document; 1 had no number, no rows of what kernels are compared with on a GPU
PACKAGES = {
    "workbench": ("workbench",),
    "torch": ("torch",),
    "numpy": ("numpy",),
    "numba": ("numba",),
    "triton": ("triton",),
    "gemlite": ("gemlite",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "nvrtc": ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"),
}


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows with named columns, in types that JSON has: what is not known is None, never NaN."""
    return [
        {str(name): _plain(value) for name, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


def document(frame: pd.DataFrame) -> dict[str, Any]:
    """{"format": 2, "kernels": rows, "machine": ..., "versions": ..., "date": ..., "runs": ...}: `measure`'s table and
    where it comes from. `runs` has for "cpu" and "gpu" every sample of every round, from which any quantile follows,
    with the clocks, the bandwidth, the empty call and how far the baseline was from itself."""
    import torch

    device, _ = cuda.find_device()
    layer = {"layer": frame.attrs["layer"]} if "layer" in frame.attrs else {}  # where one was run
    return (
        layer
        | {
            "format": FORMAT,
            "kernels": to_records(frame),
            "machine": {
                "cpu": cpu.cpu_name(),
                "path": cpu.isa(),  # what the C++ kernels were compiled for
                "compiler": _compiler(),
                "cores": os.cpu_count(),
                "cache_bytes": cpu.cache_bytes(),  # of the last level, as copies of the operands were counted by it
                "threads": torch.get_num_threads(),
                "load": os.getloadavg()[0]
                if hasattr(os, "getloadavg")
                else None,  # runnable processes, 1 minute
                "system": platform.platform(terse=True),
                "device": device.name if device else None,
                "driver": device.driver if device else None,
                "device_cache_bytes": device.cache_bytes if device else None,
            },
            "versions": {"python": platform.python_version()}
            | {name: _version(name) for name in PACKAGES}
            | (cuda.library_versions() if device else {}),
            "runs": _plain_all(frame.attrs.get("runs", {})),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
    )


def record(frame: pd.DataFrame, path: str | Path, limits: Limits | None = None) -> Path:
    """Write `document(frame)` as JSON, with the machine's `limits` where they were measured, too. Whole or not at
    all: an older file stays until the new one is complete. Refused where the folder does not exist or cannot be
    written."""
    path = Path(path)
    told = document(frame) | ({"limits": limits.to_json()} if limits else {})
    text = json.dumps(told, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    beside = None
    try:
        # in the same folder, because a rename is atomic within one file system only
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        os.chmod(beside, 0o644)  # mkstemp's own mode hides the file from everybody else
        os.replace(beside, path)
    except OSError as error:
        raise Refused(f"{path}: the record cannot be written: {error.strerror}") from None
    finally:
        if beside and os.path.exists(beside):
            os.unlink(beside)
    return path


def _plain_all(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain_all(part) for name, part in value.items()}
    return [_plain_all(part) for part in value] if isinstance(value, list | tuple) else _plain(value)


def _plain(value: Any) -> Any:
    if value is None or value != value or type(value).__name__ == "NAType":
        return None
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _compiler() -> str | None:
    try:
        return cxx.find_compiler().identity
    except NoCompiler:
        return None


def _version(name: str) -> str | None:
    for package in PACKAGES[name]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
