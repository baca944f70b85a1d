"""`workbench outliers`: how loud the input channels of each layer are, before and after a transform or a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Refused
from .options import CALIBRATION, JSON, LAYERS, MODEL, RECIPE
from .report import Report, Table, run_job
from .work import check_text

if TYPE_CHECKING:
    from ..engine import Recipe, Variant
    from ..methods import Method
    from ..model import Model

SHOWN = (
    *("name", "inputs", "ratio", "loud", "channels", "weight_ratio"),
    *("ratio_after", "loud_after", "weight_ratio_after"),
)


def outliers(
    model: MODEL,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="smoothquant, awq, or Python (SmoothQuant(alpha=0.8))"),
    ] = None,
    recipe: RECIPE = None,
    layers: LAYERS = "*",
    calibration: CALIBRATION = None,
    as_json: JSON = False,
) -> Report:
    """How loud each layer's input channels are: the largest over the median, before and after."""
    from .. import inspect
    from ..engine import Recipe
    from ..files.load import load
    from ..measure import evaluation

    if method is not None and recipe is not None:
        raise Refused("--method and --recipe both say what comes after: give one of them")
    transform, steps = _transform(method), None if recipe is None else Recipe.load(recipe)
    found = load(model)
    if calibration is not None:
        check_text(found, calibration, "--calibration")
    batches = evaluation(found, calibration, part="calibration").inputs_only()
    subject: Model | Variant = found if steps is None else _applied(found, steps, batches)
    seen = run_job(
        "listening",
        lambda job: inspect.outliers(subject, transform, layers=layers, calibration=batches, job=job),
    )
    frame = seen.table
    columns = [name for name in SHOWN if name in frame]
    units = [f"{name}: {frame.attrs['columns'][name]}" for name in columns[1:]]
    title = f"Input channels of {found.name}" + (f", after {seen.what}" if seen.what else "")
    return Report(
        {"layers": frame.to_dict("records")},
        [Table(title, frame.to_dict("records"), columns, "\n".join(units))],
    )


def _transform(text: str | None) -> Method | None:
    from ..methods import METHODS, parse_method

    if text is None:
        return None
    return parse_method(text) if "(" in text else METHODS[text]()


def _applied(model: Model, steps: Recipe, batches: list) -> Variant:
    from ..engine import apply

    return run_job("applying", lambda job: apply(model, steps, calibration=batches, job=job))
