"""`workbench sensitivity`: methods from the command line, the layers' table, the recipe of a budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Refused
from .options import CALIBRATION, JSON, LAYERS, MODEL, TEXT
from .report import Report, Table, run_job
from .work import check_text, evaluation_data

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from ..engine import Recipe
    from ..measure import Evaluation, Quality
    from ..methods import Method
    from ..model import Model

BITS = "2,3,4,8"  # of a method that was named without parameters


def sensitivity(
    model: MODEL,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a name (gptq) or Python (RTN(bits=3)), repeatable; default: rtn"),
    ] = None,
    bits: Annotated[
        str | None,
        typer.Option(metavar="2,3,4,8", help="widths of each method; default: 2,3,4,8 of a bare name"),
    ] = None,
    layers: LAYERS = "*",
    budget: Annotated[
        float | None, typer.Option(metavar="B", help="bits per weight: the best recipe within them")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="R.yaml", help="write that recipe here")] = None,
    text: TEXT = None,
    tokens: Annotated[int | None, typer.Option(help="of the text; default: 2048", show_default=False)] = None,
    calibration: CALIBRATION = None,
    as_json: JSON = False,
) -> Report:
    """What each layer costs the model if it alone is compressed; and mixed precision under a budget of bits."""
    from .. import engine
    from ..files.load import load
    from ..measure import Quality

    if out is not None and budget is None:
        raise Refused("--out writes the recipe of a budget: give --budget too, in bits per weight")
    methods = methods_of(method or ["rtn"], bits)
    found = load(model)
    quality = Quality(found, judged_data(found, text, tokens))
    batches = calibration_for(found, methods, calibration)
    frame = run_job(
        "sensitivity",
        lambda job: engine.sensitivity(found, methods, quality, layers=layers, calibration=batches, job=job),
    )
    report = Report({"layers": frame.to_dict("records"), "recipe": None}, [sensitivity_table(frame)])
    if budget is not None:
        recipe, row = budgeted(found, frame, quality, budget, batches)
        if out is not None:
            recipe.save(out)
        report.document["recipe"] = row
        report.tables.append(recipe_table(recipe, row, out))
    return report


def methods_of(given: Sequence[str], bits: str | None) -> list[Method]:
    """Names ("rtn") and Python ("RTN(bits=3, group_size=32)") as methods; each at every width of `bits`, where it has
    one. Without `bits` a name is taken at 2, 3, 4 and 8, and Python as it is written."""
    from ..methods import METHODS, parameters_of, parse_method

    found: list[Method] = []
    for text in given:
        written = "(" in text
        method = parse_method(text) if written else METHODS[text]()
        widths = _widths(bits) if bits is not None else [] if written else _widths(BITS)
        if not any(parameter.name == "bits" for parameter in parameters_of(type(method))):
            widths = []
        found += [method.with_(bits=width) for width in widths] or [method]
    return list(dict.fromkeys(found))


def _widths(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise Refused(
            f"--bits {text!r} is not a list of widths: give whole numbers such as 2,3,4,8"
        ) from None


def judged_data(model: Model, text: Path | None, tokens: int | None) -> Evaluation:
    """What the layers are judged on. Refused where the model cannot be run."""
    from ..engine.sensitivity import TOKENS, few

    data, why_not = evaluation_data(model, text, tokens or TOKENS)
    if data is None:
        raise Refused(f"sensitivity is measured by running the model: {why_not}")
    return few(data)


def calibration_for(model: Model, methods: Sequence[Method], text: Path | None) -> list[Tensor] | None:
    """Batches for the statistics that the methods need; None where none does."""
    from ..measure import evaluation

    if text is not None:
        check_text(model, text, "--calibration")
    if not any(method.needed or method.works_on == "block" for method in methods):
        return None
    return evaluation(model, text, part="calibration").inputs_only()


def sensitivity_table(frame: pd.DataFrame) -> Table:
    """Layers and methods, the most KL first."""
    hidden = ("role", "block", "parameters", "recipe")
    columns = [name for name in frame if name not in hidden]
    rows = frame.sort_values("kl", ascending=False).to_dict("records")
    units = [f"{name}: {frame.attrs['columns'][name]}" for name in columns[2:]]
    caption = "\n".join([*units, f"measured on {frame.attrs['data']}"])
    return Table(
        f"Sensitivity of {frame.attrs['model']}: each layer compressed alone", rows, columns, caption
    )


def budgeted(
    model: Model, frame: pd.DataFrame, quality: Quality, budget: float, calibration: Sequence[Tensor] | None
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe for a budget and what a document says of it: what the table predicts and what was measured."""
    from ..engine import apply, assigned, predicted, recipe_from

    choices = assigned(frame, budget)
    recipe = recipe_from(frame, choices)
    forecast = predicted(frame, choices)
    variant = run_job("applying", lambda job: apply(model, recipe, calibration=calibration, job=job))
    measured = quality.measure(variant.weights, vectors=variant.vectors)
    return recipe, {
        "budget": budget,
        "bits_per_weight": forecast["bits_per_weight"],
        "bytes": forecast["bytes"],
        "predicted_kl": forecast["kl"],
        **measured,
        "assignment": choices,
        "yaml": recipe.to_yaml(),
    }


def recipe_table(recipe: Recipe, row: dict[str, Any], out: Path | None) -> Table:
    """A row for each step: its method, how many layers, which."""
    steps = [
        {"method": step.method.label, "layers": len(step.layers.split(",")), "what": step.layers}
        for step in recipe
    ]
    caption = (
        f"{row['bits_per_weight']:.4g} bits per weight of a budget of {row['budget']:g}; "
        f"KL {row['predicted_kl']:.3g} nats predicted (the sum of the layers' own), {row['kl']:.3g} measured; "
        f"top-1 agreement {row['top1_agreement']:.1%}"
    )
    if out is not None:
        caption += f"\nwritten to {out}"
    return Table("Recipe", steps, ["method", "layers", "what"], caption)
