"""Spectra of a model, layer by layer: memory is that of one layer, whatever the size of the checkpoint.

Of a variant also what compression did: the same columns after it, the noise edge, and how far the leading directions
turned.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight
from ..jobs import Job, ahead
from ..model import Layer, Model
from ..spectra import (
    ESD,
    Matrices,
    NoiseEdge,
    Reading,
    failed_row,
    overlap,
    spectrum_row,
)
from ..spectra.columns import EXTRAS
from ..spectra.values import as_matrix
from .heads import check_heads, heads_in, heads_of
from .variant import Variant

if TYPE_CHECKING:
    import pandas as pd

SMALL = 1 << 23  # weights of a layer up to which several are worked on at once
TOGETHER = (
    1 << 25
)  # weights that are worked on at once, on however many cores: some copies of them in float64
TOP = 8  # leading directions of which the angles are measured
PLAIN = Reading()

SPECTRA_COLUMNS = {
    "layer_id": "place of the layer in the model, from 0",
    "name": "layer, as the checkpoint calls it without .weight",
    "longname": "= name",
    "layer_type": "dense, conv1d, conv2d or embedding",
    "role": "q, k, v, o, gate, up, down, ...",
    "block": "index of its transformer or residual block, from 0; empty outside blocks",
    "head": "index of the attention head, where layers are cut into heads (ours)",
    "has_esd": "whether there are eigenvalues",
}
AFTER_COLUMNS = {
    "method": "what was done to the layer",
    "edge": "largest singular value of white noise with the variance of the error; unit of the weights",
    "threshold": "singular value under which a direction cannot be found again in that noise; unit of the weights",
    "error_norm": "largest singular value of the error; well above edge the error is not white; unit of the weights",
    "lost": "singular values of the weight under the edge; count",
    "lost_share": "the same as a share of all, 0 to 1, comparable across layers; no unit",
    "undetectable": "singular values of the weight under the threshold; count",
    "largest_shift": "largest change of a singular value, at most error_norm; unit of the weights",
    "left_overlap": f"mean squared cosine of the angles between the {TOP} leading output directions before and after",
    "right_overlap": f"the same of the {TOP} leading input directions",
    "largest_angle": "largest of those angles; degrees",
    "after_alpha": "alpha of the compressed weight",
    "after_D": "D of the compressed weight",
    "after_alpha_hill": "alpha_hill of the compressed weight",
    "after_stable_rank": "stable_rank of the compressed weight",
    "after_effective_rank": "effective_rank of the compressed weight",
    "after_log_norm": "log_norm of the compressed weight",
}

KEPT = ("alpha", "D", "alpha_hill", "stable_rank", "effective_rank", "log_norm")

Made = Callable[[Layer], tuple[CompressedWeight, str] | None]


def spectra(
    subject: Model | Variant,
    layers: str = "*",
    reading: Reading = PLAIN,
    *,
    heads: bool = False,
    job: Job | None = None,
) -> pd.DataFrame:
    """One row for each layer, columns as in SPECTRA_COLUMNS, `reading.columns` and, for a Variant, AFTER_COLUMNS.

    `heads`: a row for each attention head of q, k, v (also where they are fused) and o instead of one for the layer;
    Refused where no layer is known to have any. `job` hears of every layer and
    cancels between two. A layer that cannot be read has a row that says why."""
    rows = list(spectra_rows(subject, layers, reading, heads=heads, job=job))
    return spectra_frame(rows, reading, subject.model.name if isinstance(subject, Variant) else subject.name)


def spectra_frame(rows: list[dict[str, Any]], reading: Reading, name: str) -> pd.DataFrame:
    """The table of these rows; `attrs` say the model's name and what the columns are."""
    import pandas as pd

    told = {**SPECTRA_COLUMNS, **reading.columns, **AFTER_COLUMNS}
    told |= {f"after_{name}": f"{name} of the compressed weight" for name in _extras(reading)}
    some = set().union(*(row.keys() for row in rows)) if rows else set()
    columns = [column for column in told if column in some]
    frame = pd.DataFrame(rows, columns=columns)
    for column in ("block", "head"):
        if column in frame:
            frame[column] = frame[column].astype("Int64")
    frame.attrs["columns"] = {column: told[column] for column in columns}
    frame.attrs["model"] = name
    return frame


def spectra_rows(
    subject: Model | Variant,
    layers: str = "*",
    reading: Reading = PLAIN,
    *,
    heads: bool = False,
    made: Made | None = None,
    job: Job | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows of `spectra` as they are known. `made(layer)`: the compressed weight and what made it, or None; a
    Variant brings its own."""
    model = subject.base if isinstance(subject, Model) else subject.model.base
    if isinstance(subject, Variant):
        variant = subject
        made = lambda layer: (  # noqa: E731
            (variant.weights[layer.name], variant.method_label(layer.name))
            if layer.name in variant.weights
            else None
        )
    chosen, places = model.select(layers), {layer.name: place for place, layer in enumerate(model.layers)}
    if heads:
        check_heads(model, chosen)
    if job is not None and chosen:
        job.step(0, len(chosen), chosen[0].name)

    def work(layer: Layer) -> list[dict[str, Any]]:
        with ONE_THREAD.held() if layer.parameters <= SMALL else nullcontext():
            return list(_rows(model, layer, reading, heads, made))

    # Closed at once when a job is cancelled: its error keeps this frame, and the frame would keep the threads.
    with closing(_side_by_side(work, chosen)) as found:
        for done, (layer, rows) in enumerate(found, start=1):
            for row in rows:
                yield {**_facts(layer, places[layer.name], row), **row}
            if job is not None:
                job.step(done, len(chosen), layer.name)


def _side_by_side(
    work: Callable[[Layer], list[dict[str, Any]]], chosen: Sequence[Layer]
) -> Generator[tuple[Layer, list[dict[str, Any]]]]:
    """(layer, rows) in order. A LAPACK call on a small matrix uses one core well and two badly, so small layers go side
    by side, each on one thread; a large one gets the machine, and the memory, for itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for small, group in groupby(chosen, key=lambda layer: layer.parameters <= SMALL):
        layers = list(group)
        largest = max(layer.parameters for layer in layers)
        yield from ahead(work, layers, min(cores, TOGETHER // max(1, largest)) if small else 1)


class _OneThread:
    """BLAS and torch on one thread while anyone holds it.

    The limit of BLAS belongs to the process: two holders that each put back what they found would leave it at one
    thread for ever. So the first one in sets it and the last one out puts it back. That of OpenMP belongs to a thread.
    """

    def __init__(self) -> None:
        self._lock, self._holders = threading.Lock(), 0
        self._limit: Any = None

    @cached_property
    def _pools(self) -> ThreadpoolController:
        return ThreadpoolController()  # looks through all loaded libraries: 2 ms

    @contextmanager
    def held(self) -> Iterator[None]:
        torch.get_num_threads()  # torch sets OpenMP's threads where a thread first asks, which has to lie behind us
        with self._lock:
            if not self._holders:
                self._limit = self._pools.limit(limits=1, user_api="blas")
            self._holders += 1
        try:
            with self._pools.limit(limits=1, user_api="openmp"):
                yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._limit.restore_original_limits()


ONE_THREAD = _OneThread()


def _facts(layer: Layer, place: int, row: Mapping[str, Any]) -> dict[str, Any]:
    kind = {3: "conv1d", 4: "conv2d"}.get(len(layer.stored)) if "convolution" in layer.note else None
    kind = kind or ("embedding" if layer.role == "embed" else "dense")
    return {
        "layer_id": place,
        "name": layer.name,
        "longname": layer.name,
        "layer_type": kind,
        "role": layer.role,
        "block": layer.block,
        "has_esd": row.get("norm") is not None and bool(np.isfinite(row["norm"])),
    }


def _rows(
    model: Model, layer: Layer, reading: Reading, heads: bool, made: Made | None
) -> Iterator[dict[str, Any]]:
    """The row of a layer, or of each of its heads."""
    try:
        compressed = None if made is None else made(layer)
        stored = model.source.read(layer.tensor)
        if heads and heads_of(model, layer):
            parts = heads_in(model, layer, layer.to_matrix(stored))
            label, copies = "", iter(())
            if compressed is not None:
                label, copies = compressed[1], heads_in(model, layer, compressed[0].dequantize())
            for (role, head, part), copy in zip_longest(parts, copies):
                after = {} if copy is None else _after(part, copy[2], label, reading)
                yield {"role": role, "head": head, **spectrum_row(part, reading), **after}
        elif compressed is None:
            yield spectrum_row(_shaped(layer, stored), reading)
        else:
            w, copy = layer.to_matrix(stored), compressed[0].dequantize()
            yield {
                **spectrum_row(_shaped(layer, stored), reading),
                **_after(w, copy, compressed[1], reading, layer),
            }
    except (Refused, RuntimeError, OSError, MemoryError, np.linalg.LinAlgError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        shape = layer.shape
        if "convolution" in layer.note:
            shape = layer.stored
        elif _stacked(layer):
            shape = (*layer.stored[1:], layer.stored[0])
        yield dict(failed_row(shape, reason, reading))


def _stacked(layer: Layer) -> bool:
    """Whether the layer is a stack of experts [experts, out, in]: matrices of their own, whose spectra are pooled."""
    return "stacked" in layer.note and len(layer.stored) == 3


def _shaped(layer: Layer, stored: Tensor) -> Tensor | Matrices:
    """A convolution as it is stored, stacked experts one by one, everything else as [out, in]."""
    if _stacked(layer):
        return Matrices(tuple(as_matrix(expert) for expert in stored))
    return stored if "convolution" in layer.note else layer.to_matrix(stored)


def _extras(reading: Reading) -> list[str]:
    """The columns that were asked for beside the usual ones."""
    return [name for extra in reading.extra for name in EXTRAS[extra]]


def _after(w: Any, copy: Any, method: str, reading: Reading, layer: Layer | None = None) -> dict[str, Any]:
    """What a layer [out, in] and its compressed copy have to say of each other; a convolution's noise edge and angles
    are of its one matrix [out, in * height * width], those of stacked experts of the stack."""
    found = NoiseEdge.measure(w, copy)
    if layer is not None and len(layer.stored) > 2:
        row = spectrum_row(_shaped(layer, layer.to_tensor(copy)), reading)
    else:
        row = spectrum_row(copy, reading, ESD.of(found.after, found.shape))
    turned = overlap(w, copy, TOP)
    kept = {f"after_{name}": row[name] for name in (*KEPT, *_extras(reading)) if name in row}
    return {
        "method": method,
        "edge": found.edge,
        "threshold": found.threshold,
        "error_norm": found.error_norm,
        "lost": found.lost,
        "lost_share": found.lost / max(1, len(found.before)),
        "undetectable": found.undetectable,
        "largest_shift": found.largest_shift,
        "left_overlap": turned.left_overlap,
        "right_overlap": turned.right_overlap,
        "largest_angle": turned.largest,
        **kept,
        "after": row,
    }
