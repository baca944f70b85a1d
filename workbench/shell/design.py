"""`workbench design`: number formats for weights and inputs, accuracy against what hardware would cost."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import Refused, near
from .options import CALIBRATION, JSON, MODEL, TEXT
from .report import Report, Table, run_job
from .sensitivity import judged_data
from .work import check_text

if TYPE_CHECKING:
    from ..inspect import DesignSpace

SHOWN = (
    "weight",
    "activation",
    "helpers",
    "bits_per_weight",
    "luts_per_mac",
    "accuracy",
    "perplexity",
    "kl",
    "front",
)


def design(
    model: MODEL,
    formats: Annotated[
        str, typer.Option(metavar="GLOB", help="of the weights: names or globs such as int4,e2m1,e?m2")
    ] = "*",
    activations: Annotated[
        str, typer.Option(help="of the layers' inputs: same, none, or names with commas")
    ] = "same",
    helpers: Annotated[
        list[str] | None,
        typer.Option(metavar="A+B", help="methods that help, such as equalize+gptq; repeatable, '' for none"),
    ] = None,
    granularity: Annotated[
        str, typer.Option(help="who shares a weight's scale: tensor or channel")
    ] = "tensor",
    text: TEXT = None,
    tokens: Annotated[int | None, typer.Option(help="of the text; default: 2048", show_default=False)] = None,
    calibration: CALIBRATION = None,
    as_json: JSON = False,
) -> Report:
    """Integers and minifloats of 3 to 8 bits: accuracy against indicative hardware cost, and the Pareto front."""
    from ..files.load import load
    from ..inspect import DesignSpace
    from ..measure import Quality, evaluation

    if granularity not in ("tensor", "channel"):
        raise Refused(f"--granularity {granularity} is not possible: take tensor or channel")
    chosen, inputs = formats_of(formats), _activations(activations)
    combinations = [tuple(filter(None, each.split("+"))) for each in helpers or [""]]
    found = load(model)
    if calibration is not None:
        check_text(found, calibration, "--calibration")
    space = DesignSpace(
        found,
        chosen,
        inputs,
        helpers=combinations,
        granularity=granularity,
        data=Quality(found, judged_data(found, text, tokens))
        if text is not None or tokens is not None
        else None,
        calibration=None
        if calibration is None
        else evaluation(found, calibration, part="calibration").inputs_only(),
    )
    run_job("design space", space.run)
    return _report(space)


def formats_of(text: str) -> list[str]:
    """Names and globs with commas, in the order of the formats. Refused where one matches nothing."""
    from ..engine.design import FORMATS

    patterns = [word.strip() for word in text.split(",") if word.strip()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in FORMATS):
            raise Refused(f"--formats {pattern!r} is no format of a design space{near(pattern, FORMATS)}")
    return [name for name in FORMATS if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _activations(text: str) -> Literal["same"] | list[str] | None:
    if text == "same":
        return "same"
    return None if text == "none" else formats_of(text)


def _report(space: DesignSpace) -> Report:
    against = (
        "bits_per_weight" if not space.table["luts_per_mac"].notna().to_numpy().any() else "luts_per_mac"
    )
    best = set(space.front(against).index)
    rows: list[dict[str, Any]] = [
        {**row, "front": index in best} for index, row in enumerate(space.table.to_dict("records"))
    ]
    units = [f"{name}: {unit}" for name, unit in space.table.attrs["columns"].items() if name in SHOWN[3:]]
    caption = "\n".join(
        [
            *units,
            f"front: no other costs as little ({against}) and loses as little",
            f"measured on {space.table.attrs['data']}",
        ]
    )
    columns = [name for name in SHOWN if rows and name in rows[0]]
    shown = sorted(rows, key=lambda row: row[against])
    return Report(
        {"designs": rows}, [Table(f"Number formats for {space.model.name}", shown, columns, caption)]
    )
