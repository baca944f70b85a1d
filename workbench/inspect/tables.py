"""Measures of a variant as DataFrames, their units in `attrs["columns"]`:
`inspect.layer`, `inspect.layers`, `inspect.model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from ..engine import Variant, collect, compress
from ..engine.compose import compared
from ..errors import Refused
from ..jobs import Job
from ..measure import (
    MODEL_COLUMNS,
    WEIGHT_COLUMNS,
    Evaluation,
    OutputError,
    Quality,
    evaluation,
    storage,
    weight_errors,
)
from ..methods import Method, Statistics
from ..model import Layer, Model

OUTPUT_TOKENS = 1024  # inputs that the error of a layer's output is measured on
OUTPUT_IMAGES = 32  # a convolution has an input row for each pixel


def layers(subject: Variant | Model, data: Evaluation | None = None, job: Job | None = None) -> pd.DataFrame:
    """One row a changed layer: errors, true bits per weight, bytes. Columns as in WEIGHT_COLUMNS.

    With `data` the error of each layer's output on it (its first 1,024 tokens, or 32 images) is measured
    too, with the unchanged model's activations as inputs; without, that column is empty.
    """
    variant = _variant(subject)
    changed = [layer for layer in variant.base.layers if layer.name in variant.weights]
    outputs = {} if data is None or not changed else output_errors(variant, changed, data)
    rows = []
    for done, layer in enumerate(changed):
        if job is not None:
            job.step(done, len(changed), layer.name)
        compressed = variant.weights[layer.name]
        rows.append(
            {
                "name": layer.name,
                "role": layer.role,
                "method": variant.method_label(layer.name),
                "bits_per_weight": compressed.bits_per_weight,
                **weight_errors(variant.base.base_weight(layer.name), compressed),
                "output_relative_error": outputs.get(layer.name),
                "vs_plain": _beside_plain(compressed.report.facts),
                "sparsity": compressed.sparsity,
                "bytes": compressed.nbytes,
            }
        )
    frame = pd.DataFrame(rows, columns=list(WEIGHT_COLUMNS)).astype(
        {"output_relative_error": float, "vs_plain": float}
    )
    frame.attrs["columns"] = WEIGHT_COLUMNS
    return frame


def _beside_plain(facts: Mapping[str, Any]) -> float | None:
    """The error of a layer over that of its plain method, from what `engine.compose.compared` has found."""
    for of in ("output error", "weight error"):
        plain = next((value for name, value in facts.items() if name.startswith(f"{of} of ")), None)
        if plain:
            return facts[of] / plain
    return None


def layer(subject: Model, name: str, method: Method, statistics: Statistics | None = None) -> pd.DataFrame:
    """One row: what `method` does to one layer of a model. Columns as in WEIGHT_COLUMNS, without the output error.

    Where the method needs statistics and none are given, they are those of the layer's input over the embedded
    calibration data. Raises Refused where the method cannot be applied to that layer.
    """
    chosen = subject.layer(name)
    verdict = method.judge(chosen.shape)
    if verdict.skip:
        raise Refused(f"{chosen.name}: {verdict.skip}")
    if method.needed and statistics is None:
        batches = evaluation(subject, part="calibration").inputs_only()
        statistics = collect(subject, [chosen], method.needed | {"sample"}, batches).get(chosen.name)
    w = subject.base_weight(chosen.name)
    compressed = compress(w, [method], statistics)
    beside = compared(w, compressed, [method], statistics or Statistics())
    row = {
        "name": chosen.name,
        "role": chosen.role,
        "method": method.label,
        "bits_per_weight": compressed.bits_per_weight,
        **weight_errors(w, compressed),
        "vs_plain": _beside_plain(beside.facts),
        "sparsity": compressed.sparsity,
        "bytes": compressed.nbytes,
    }
    units = {column: unit for column, unit in WEIGHT_COLUMNS.items() if column in row}
    frame = pd.DataFrame([row], columns=list(units)).astype({"vs_plain": float})
    frame.attrs["columns"] = units
    return frame


def output_errors(variant: Variant, changed: list[Layer], data: Evaluation) -> dict[str, float]:
    """||x (w' - w)^T|| / ||x w^T|| of each layer on the unchanged model's activations x; empty where it cannot
    be run."""
    sums: dict[str, OutputError] = {}

    def hear(layer: Layer, x) -> None:
        if layer.name not in sums:
            w = variant.base.base_weight(layer.name)
            sums[layer.name] = OutputError(w, variant.weights[layer.name].running())
        sums[layer.name].add(x)

    try:
        runner = variant.base.runner
    except Refused:
        return {}
    rows = OUTPUT_IMAGES if data.labels is not None else max(1, OUTPUT_TOKENS // data.inputs.shape[1])
    with runner.inputs_of(changed, hear):
        runner.logits(data.inputs[:rows])
    return {name: total.value for name, total in sums.items() if total.value is not None}


def model(
    subject: Variant | Model,
    data: Evaluation | Quality | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """One row: perplexity or accuracy, KL, top-1 agreement, bits per weight, bytes. Columns as in MODEL_COLUMNS.

    `data` is what to measure on (the embedded held-out data by default), or a Quality that is kept between calls
    so that the unchanged model runs once. Raises Refused where the model cannot be run.
    """
    variant = _variant(subject)
    if data is None:
        data = evaluation(variant.base)
    quality = data if isinstance(data, Quality) else Quality(variant.base, data)
    row = {
        **quality.measure(variant.weights, step, variant.vectors),
        **storage(variant.base, variant.weights),
    }
    frame = pd.DataFrame([row])
    frame.attrs["columns"] = {name: MODEL_COLUMNS[name] for name in row}
    frame.attrs["data"] = quality.data.what
    return frame


def measured(
    variant: Variant, data: Evaluation | Quality, step: Callable[[int, int], None] = lambda done, total: None
) -> Variant:
    """The variant with its model measures filled in."""
    row = model(variant, data, step).iloc[0].to_dict()
    return replace(variant, measures=row)


def _variant(subject: Variant | Model) -> Variant:
    if isinstance(subject, Variant):
        return subject
    from ..engine import Recipe

    return Variant(subject.base, Recipe(), subject.overlays, vectors=subject.vectors)
