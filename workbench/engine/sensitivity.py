"""Sensitivity: what each layer costs the model if it alone is compressed, for every method in question.

Statistics are those of the unchanged model's inputs, collected once; runs begin at the changed layer's own block. The
table is what `engine.assign` makes a recipe of; that the layers' divergences add up is its assumption.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight
from ..jobs import Job, heard, in_cell, require
from ..measure import MODEL_COLUMNS, WEIGHT_COLUMNS, Evaluation, Quality, evaluation, weight_errors
from ..methods import Method, Statistics
from ..model import Layer, Model
from .alone import Say, judges
from .compose import compress, output_error
from .plan import plan
from .recipe import Recipe, Step
from .statistics import collect
from .variant import apply
from .walk import check_rank

if TYPE_CHECKING:
    import pandas as pd

# A layer is judged on so many, unless said otherwise: its rank among the others is stable by then.
TOKENS, IMAGES = 2048, 256
HEARD_TOKENS, HEARD_IMAGES = 1024, 32  # inputs of the output's error, where no calibration is given

SENSITIVITY_COLUMNS = {
    "name": "layer",
    "role": "what the layer does",
    "block": "index of its transformer or residual block, from 0; empty outside blocks",
    "method": "what was done to this layer alone; every other one is unchanged",
    "parameters": "number of weights",
    "bits_per_weight": WEIGHT_COLUMNS["bits_per_weight"],
    "bytes": WEIGHT_COLUMNS["bytes"],
    "kl": MODEL_COLUMNS["kl"],
    "top1_agreement": MODEL_COLUMNS["top1_agreement"],
    "perplexity": MODEL_COLUMNS["perplexity"],
    "accuracy": MODEL_COLUMNS["accuracy"],
    "relative_error": WEIGHT_COLUMNS["relative_error"],
    "output_relative_error": "||y' - y|| / ||y|| of the layer's output on the unchanged model's inputs; "
    "empty where nothing enters",
    "recipe": "the method as the YAML of a recipe",
}

Alternative = Method | Step | Recipe


@dataclass(frozen=True)
class Choice:
    """One alternative: its name in the table, its recipe, and the methods of each layer that it can be used on."""

    label: str
    recipe: Recipe
    methods: Mapping[str, tuple[Method, ...]]


@in_cell("sensitivity")
def sensitivity(
    model: Model,
    methods: Alternative | Iterable[Alternative],
    data: Evaluation | Quality | None = None,
    *,
    layers: str = "*",
    calibration: Iterable[Tensor] | None = None,
    job: Job | None = None,
) -> pd.DataFrame:
    """One row for each layer and method, columns as in SENSITIVITY_COLUMNS.

    `methods`: methods, steps or recipes; a step's own selector limits where it is tried, "*" is `layers`. Layers that a
    plan would skip have no row. `data` is what the model is judged on (the first 2,048 tokens or 256 images of the
    embedded held-out data by default), or a Quality that has kept the unchanged predictions. `calibration` are batches
    of inputs, needed where a method needs statistics. `job` hears of every row and cancels.
    """
    import pandas as pd

    model = model.base
    choices = _choices(model, methods, layers)
    quality = data if isinstance(data, Quality) else Quality(model, data or judged_on(model))
    if quality.model.source is not model.source:
        raise Refused(
            f"these predictions are of {quality.model.name}, not of {model.name}: make a Quality of it"
        )
    wanted = [layer for layer in model.layers if any(layer.name in choice.methods for choice in choices)]
    batches = None if calibration is None else list(calibration)
    known = _statistics(model, wanted, choices, quality.data, batches, job)
    total = sum(len(choice.methods) for choice in choices)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for layer, judge in judges(model, quality, wanted):
        w = model.base_weight(layer.name)
        for choice in (c for c in choices if layer.name in c.methods):
            say = _teller(job, len(rows), total, f"{layer.name}: {choice.label}")
            say(0, 1)
            made = _made(model, layer, choice, known.get(layer.name), batches, job)
            measures = judge(made.running(), say)
            numbers = {"kl": measures.pop("kl"), **measures, **_errors(w, made, known.get(layer.name))}
            rows[layer.name, choice.label] = {**_facts(layer, choice, made), **numbers}
    if job is not None:
        job.done = job.total = total
    ordered = [rows[key] for key in ((la.name, c.label) for la in wanted for c in choices) if key in rows]
    columns = [name for name in SENSITIVITY_COLUMNS if name in ordered[0]]
    frame = pd.DataFrame(ordered, columns=columns).astype({"block": "Int64"})
    frame.attrs["columns"] = {name: SENSITIVITY_COLUMNS[name] for name in frame}
    frame.attrs["data"], frame.attrs["model"] = quality.data.what, model.name
    return frame


def judged_on(model: Model) -> Evaluation:
    """The embedded held-out data, as much of it as ranks layers."""
    return few(evaluation(model, tokens=TOKENS))


def few(data: Evaluation, images: int = IMAGES) -> Evaluation:
    """The data with at most so many images: runs are many. Tokens are chosen when the data is made."""
    return data if data.labels is None else data.first(images)


def _choices(model: Model, given: Alternative | Iterable[Alternative], layers: str) -> list[Choice]:
    """The alternatives in their order, each once; Refused where there is none."""
    listed = [given] if isinstance(given, Method | Step | Recipe) else list(given)
    recipes = [each if isinstance(each, Recipe) else Recipe(each) for each in listed]
    if not recipes or not all(recipes):
        raise Refused("no method was given: sensitivity compares methods such as RTN(bits=3), RTN(bits=4)")
    chosen = {layer.name for layer in model.select(layers)}
    found: dict[Recipe, dict[str, tuple[Method, ...]]] = {}
    for recipe in recipes:
        if pairing := next((s.method for s in recipe if s.method.whole_model), None):
            raise Refused(
                f"{pairing.label} works on pairs of layers: it does nothing to one alone, leave it out"
            )
        steps = [Step(s.method, layers if s.layers.strip() == "*" else s.layers) for s in recipe]
        planned = plan(model, Recipe(steps)).work
        methods = {e.layer.name: e.methods for e in planned if e.layer.name in chosen}
        if not methods:
            raise Refused(
                f"{recipe.label} is for none of the layers {layers!r}: change its selector, or layers"
            )
        found.setdefault(Recipe([step.method for step in recipe]), {}).update(methods)
    # Two methods may have one short name: then the long one tells them apart.
    labels = [recipe.label for recipe in found]
    long = [" + ".join(map(repr, recipe)) for recipe in found]
    names = [a if labels.count(a) == 1 else b for a, b in zip(labels, long, strict=True)]
    return [Choice(name, *each) for name, each in zip(names, found.items(), strict=True)]


def _statistics(
    model: Model,
    layers: Sequence[Layer],
    choices: Sequence[Choice],
    data: Evaluation,
    batches: Sequence[Tensor] | None,
    job: Job | None,
) -> dict[str, Statistics]:
    """Of each layer's input in the unchanged model: what the methods need, and a sample for the output's error."""
    methods = [m for choice in choices for each in choice.methods.values() for m in each]
    needs = {need for m in methods for need in m.needed}
    needy = next((m for m in methods if m.needed or m.works_on == "block"), None)
    if needy is not None and not batches:
        what = ", ".join(sorted(needy.needed)) or "inputs of whole blocks"
        raise Refused(f"{needy.label} needs {what}: give calibration")
    if "hessian" in needs:
        size = 4 * sum(layer.shape[1] ** 2 for layer in layers)
        require(size, "the Hessians of these layers", "choose fewer layers with layers=...")
    if batches is None:
        rows = HEARD_IMAGES if data.labels is not None else max(1, HEARD_TOKENS // data.inputs.shape[1])
        batches = [data.inputs[:rows]]
    count = len(batches)
    return collect(
        model,
        list(layers),
        needs | {"sample"},
        batches,
        lambda done: (
            None if job is None else job.step(0, job.total, f"calibrating: {done} of {count} batches")
        ),
    )


def _made(
    model: Model,
    layer: Layer,
    choice: Choice,
    known: Statistics | None,
    batches: Sequence[Tensor] | None,
    job: Job | None,
) -> CompressedWeight:
    """The layer compressed in the unchanged model."""
    methods = choice.methods[layer.name]
    if any(method.works_on == "block" for method in methods):
        # What rebuilds whole blocks is given a block in which this layer is the only one to rebuild.
        alone = Recipe([Step(method, layer.name) for method in methods])
        return apply(model, alone, calibration=batches, prefix="original").weights[layer.name]
    check_rank(layer, methods, 0 if known is None else known.tokens)
    with heard(
        lambda done, total, values: None if job is None else job.beat(f"{layer.name}: {choice.label}", values)
    ):
        return compress(model.base_weight(layer.name), methods, known)


def _facts(layer: Layer, choice: Choice, made: CompressedWeight) -> dict[str, Any]:
    return {
        "name": layer.name,
        "role": layer.role,
        "block": layer.block,
        "method": choice.label,
        "parameters": layer.parameters,
        "bits_per_weight": made.bits_per_weight,
        "bytes": made.nbytes,
        "recipe": choice.recipe.to_yaml(),
    }


def _errors(w: Tensor, made: CompressedWeight, known: Statistics | None) -> dict[str, float | None]:
    output = None if known is None else output_error(w, made, known)
    error = weight_errors(w, made)["relative_error"]
    return {"relative_error": error, "output_relative_error": float("nan") if output is None else output}


def _teller(job: Job | None, done: int, total: int, text: str) -> Say:
    """A step for the batches of one row; raises Cancelled."""

    def say(batch: int, batches: int) -> None:
        if job is not None:
            job.step(done, total, text)

    return say
