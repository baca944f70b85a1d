"""Kept layers: compressed weights in a folder, one file a layer, so that long work goes on after a kill.

Each file is safetensors: the tensors of a CompressedWeight, and its grid and the rest as JSON in the metadata. Files
are written beside their place and renamed, so one that is there is whole. `run.json` says what run they belong to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import Refused
from ..grid import Blocks, CompressedWeight, Grid, InputQuantizer, Patch, Report, grid_from

TENSORS = ("codes", "zero", "mask", "input_scale", "order", "shift")


class Kept:
    """The folder of one run over these layers. `run` are the words and numbers that it depends on: a folder that holds
    another run is refused."""

    def __init__(self, folder: str | os.PathLike, run: Mapping[str, str], layers: list[str]):
        self.folder, self.layers = Path(folder), layers
        described = dict(run)
        path = self.folder / "run.json"
        if path.exists():
            try:
                found = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise Refused(
                    f"{path} cannot be read ({error}): take another folder, or delete this one"
                ) from None
            different = [key for key in described if found.get(key) != described[key]]
            if different:
                raise Refused(
                    f"{self.folder} keeps the layers of another run ({', '.join(different)} differ): take another "
                    "folder, or delete this one"
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise Refused(f"{self.folder} is not empty and holds no run of ours: give a new or empty folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_text(path, json.dumps(described, indent=1) + "\n")

    def finished(self) -> Iterator[tuple[str, CompressedWeight]]:
        """The layers that are there already."""
        for name in self.layers:
            if self._path(name).exists():
                yield name, load_compressed(self._path(name))

    def put(self, name: str, made: CompressedWeight) -> CompressedWeight:
        """Save a layer; returns it with its tensors read from the file, so that they need not stay in memory."""
        path = self._path(name)
        if not path.exists():
            save_compressed(made, path)
        return load_compressed(path)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('/', '_')}.safetensors"


def save_compressed(made: CompressedWeight, path: str | os.PathLike) -> None:
    """One compressed weight as a safetensors file, whole or not at all. Refused where the disk is full."""
    target = Path(path)
    tensors: dict[str, Tensor] = {}
    described = _taken_apart(made, "", tensors)
    beside = target.with_name(target.name + ".part")
    try:
        save_file(
            {k: v.contiguous() for k, v in tensors.items()}, beside, {"compressed": json.dumps(described)}
        )
        os.replace(beside, target)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise Refused(
            f"{target} could not be written ({error}): free some space, the finished layers are kept"
        ) from None


def load_compressed(path: str | os.PathLike) -> CompressedWeight:
    """What `save_compressed` wrote. Refused where the file is not one."""
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})["compressed"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return _put_together(described, "", tensors)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise Refused(
            f"{path} is not a compressed weight ({error}): delete it, and the layer is made again"
        ) from None


def _taken_apart(made: CompressedWeight, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for name in TENSORS:
        if (value := getattr(made, name)) is not None:
            tensors[prefix + name] = value
    if made.patch is not None:
        tensors[prefix + "patch.columns"], tensors[prefix + "patch.values"] = (
            made.patch.columns,
            made.patch.values,
        )
    scale = None
    if isinstance(made.scale, CompressedWeight):
        scale = _taken_apart(made.scale, f"{prefix}scale.", tensors)
    elif made.scale is not None:
        tensors[f"{prefix}scale"] = made.scale
    inputs = made.inputs
    return {
        "grid": _grid(made.grid),
        "blocks": [*made.blocks.shape, made.blocks.rows, made.blocks.columns],
        "n_m": made.n_m,
        "scale": scale,
        "inputs": inputs
        and [_grid(inputs.grid), inputs.granularity, inputs.scale, inputs.zero, inputs.format],
        "report": {
            "curves": {k: [float(x) for x in v] for k, v in made.report.curves.items()},
            "facts": dict(made.report.facts),
            "warnings": list(made.report.warnings),
        },
    }


def _put_together(
    described: Mapping[str, Any], prefix: str, tensors: Mapping[str, Tensor]
) -> CompressedWeight:
    out, inputs, rows, columns = described["blocks"]
    parts = {name: tensors.get(prefix + name) for name in TENSORS}
    scale: Any = tensors.get(f"{prefix}scale")
    if described["scale"] is not None:
        scale = _put_together(described["scale"], f"{prefix}scale.", tensors)
    quantizer = described["inputs"]
    report = described["report"]
    return CompressedWeight(
        grid=grid_from(**described["grid"]),
        blocks=Blocks((out, inputs), rows, columns),
        scale=scale,
        n_m=described["n_m"] and tuple(described["n_m"]),
        inputs=quantizer and InputQuantizer(grid_from(**quantizer[0]), *quantizer[1:]),
        patch=Patch(tensors[prefix + "patch.columns"], tensors[prefix + "patch.values"])
        if prefix + "patch.columns" in tensors
        else None,
        report=Report(report["curves"], report["facts"], tuple(report["warnings"])),
        **parts,  # type: ignore[arg-type]
    )


def _grid(grid: Grid) -> dict[str, Any]:
    return {"kind": type(grid).__name__, **grid.model_dump()}


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, "utf-8")
    os.replace(beside, path)
