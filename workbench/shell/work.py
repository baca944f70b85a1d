"""What measure, compress and spectra share: the plan, the data, the variant, and rows for their tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .report import Report, Table, run_job

if TYPE_CHECKING:
    from torch import Tensor

    from ..engine import Plan, Recipe, Variant
    from ..measure import Evaluation
    from ..model import Model


def make_plan(report: Report, model: Model, recipe: Recipe, only: set[str] | None = None) -> Plan:
    """The plan (for the layers of these names), said before the work."""
    from ..engine import Plan, plan

    if not recipe:
        return Plan(recipe, ())
    planned = plan(model, recipe)
    if only is not None:
        planned = replace(planned, layers=tuple(e for e in planned.layers if e.layer.name in only))
    first, *more = planned.describe()
    report.say(f"{recipe.label} on {model.name}: {first}")
    for line in more:
        report.say(line)
    return planned


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def left_out(planned: Plan) -> dict[str, list[dict[str, str]]]:
    """What of a plan belongs into a document."""
    return {
        "skipped": [{"name": entry.layer.name, "reason": entry.skip} for entry in planned.skipped],
        "notes": [{"name": e.layer.name, "note": note} for e in planned.layers for note in e.notes],
    }


def make_variant(
    report: Report,
    model: Model,
    planned: Plan,
    calibration: Path | None,
    keep: Path | None = None,
    prefix: str = "compressed",
) -> Variant:
    """The recipe applied; what its methods warn of, and the memory it took, are said."""
    from ..engine import Variant, apply
    from ..jobs import peak

    if prefix not in ("compressed", "original"):
        raise Refused(f"--prefix {prefix} is not possible: take compressed or original")
    if not planned.work:
        return Variant(model, planned.recipe)
    batches = calibration_batches(report, model, planned, calibration)
    made = run_job(
        "applying",
        lambda job: apply(model, planned.recipe, calibration=batches, prefix=prefix, keep=keep, job=job),
    )
    for line in made.notes:
        report.say(line)
    said: dict[str, list[str]] = {}
    for name, warnings in made.warnings.items():
        for warning in warnings:
            said.setdefault(warning.partition(":")[0], []).append(name)
    for warning, names in said.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        report.say(f"{warning} ({', '.join(names[:3])}{more})")
    if batches is not None:
        report.say(f"at most {_size(peak())} of memory were in use")
    return made


def folded(report: Report, variant: Variant) -> Variant:
    """With input scales moved into what makes the inputs, where that is possible; where, is said."""
    from ..engine.fold import fold

    made = fold(variant)
    for line in made.notes[len(variant.notes) :]:
        report.say(line)
    return made


def calibration_batches(
    report: Report, model: Model, planned: Plan, text: Path | None
) -> list[Tensor] | None:
    """Batches for the statistics that the plan needs; None where it needs none."""
    from ..measure import evaluation

    if text is not None:
        check_text(model, text, "--calibration")
        if not planned.needs and not planned.by_block:
            report.say(f"{text} is not used: no method of the recipe needs statistics of the inputs")
    if not planned.needs and not planned.by_block:
        return None
    return evaluation(model, text, part="calibration").inputs_only()


def evaluation_data(model: Model, text: Path | None, tokens: int | None) -> tuple[Evaluation | None, str]:
    """(what to measure on, "") or (None, why the model cannot be run). Refused for a text that will not do."""
    from ..jobs import available
    from ..measure import evaluation

    if text is not None:
        check_text(model, text, "--text")
    needed, free = 4 * model.parameters, available()
    if needed > free and model.task is not None:
        return None, f"running {model.name} needs {_size(needed)} of memory, {_size(free)} are free"
    try:
        model.runner.module  # noqa: B018  the network itself: what transformers does not know ends here
        if model.task == "language":
            model.runner.tokenizer  # noqa: B018
    except Refused as error:
        return None, str(error)
    return (evaluation(model, text) if tokens is None else evaluation(model, text, tokens)), ""


def check_text(model: Model, path: Path, option: str) -> None:
    """Said early: a network is built before its tokenizer sees the text."""
    if model.task == "classification":
        raise Refused(f"{option} is for language models: {model.name} is measured on the embedded images")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise Refused(f"{option} {path} cannot be read: {error.strerror}; give a UTF-8 text file") from None


def model_table(model: Model, recipe: Recipe, row: Mapping[str, Any], unchanged: Mapping[str, Any]) -> Table:
    from ..measure import MODEL_COLUMNS

    rows = [
        {"measure": name, "value": row[name], "unchanged": unchanged.get(name), "what": MODEL_COLUMNS[name]}
        for name in MODEL_COLUMNS
        if row.get(name) is not None
    ]
    title = f"{model.name}: {recipe.label}" if recipe else f"{model.name}, unchanged"
    caption = f"measured on {row['data']}" if "data" in row else f"no model measures: {row['why_not']}"
    columns = ["measure", "value", *(["unchanged"] if recipe else []), "what"]
    return Table(title, rows, columns, caption)


def layer_table(frame: Any, data: Evaluation | None, caption: str = "") -> Table:
    """The measures of the changed layers; the error of outputs where it was measured."""
    from ..measure import WEIGHT_COLUMNS

    columns = [
        n for n in WEIGHT_COLUMNS if n != "role" and (data is not None or n != "output_relative_error")
    ]
    units = [f"{name}: {WEIGHT_COLUMNS[name]}" for name in columns[2:]]
    return Table("Layers", frame.to_dict("records"), columns, "\n".join(filter(None, [*units, caption])))
