"""`workbench mobilequant`: learn a Llama's scales, clips and ranges end to end, and run it in integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Refused
from .options import CALIBRATION, JSON, MODEL, TEXT
from .report import Report, Table, run_job
from .work import check_text, evaluation_data

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from ..engine.integer import Comparison, IntegerVariant
    from ..measure import Evaluation
    from ..methods.quantize.mobilequant import MobileQuant
    from ..model import Model


def mobilequant(
    model: MODEL,
    bits: Annotated[int, typer.Option(help="of a weight's code: 4 or 8")] = 8,
    act_bits: Annotated[int, typer.Option(help="of an activation's code: 8 or 16")] = 8,
    steps: Annotated[
        int | None, typer.Option(help="of the optimiser, a window each; default: 200", show_default=False)
    ] = None,
    text: TEXT = None,
    tokens: Annotated[int | None, typer.Option(help="of the text; default: 4096", show_default=False)] = None,
    calibration: CALIBRATION = None,
    as_json: JSON = False,
) -> Report:
    """Learn a Llama's scales, weight clips and activation ranges end to end, and run it in integers alone."""
    from ..engine import integer
    from ..files.load import load

    method = _method(bits, act_bits, steps)
    found = load(model)
    windows, data = _data(found, text, tokens, calibration)
    made = run_job("mobilequant", lambda job: integer.mobilequant(found, windows, method, job=job))
    quality = run_job("measuring", lambda job: made.quality(data, job=job))
    compared = run_job("comparing", lambda job: made.compare(data.inputs[:1], job=job))
    report = Report(_document(made, quality, compared), _tables(made, quality, compared))
    for warning in made.warnings:
        report.say(warning)
    return report


def _method(bits: int, act_bits: int, steps: int | None) -> MobileQuant:
    from ..methods import METHODS

    given = {} if steps is None else {"steps": steps}
    return METHODS["mobilequant"](bits=bits, act_bits=act_bits, **given)


def _data(
    model: Model, text: Path | None, tokens: int | None, calibration: Path | None
) -> tuple[Tensor, Evaluation]:
    """(windows to learn on, data to judge by); Refused where the model cannot be run."""
    from ..measure import evaluation

    if calibration is not None:
        check_text(model, calibration, "--calibration")
    data, why_not = evaluation_data(model, text, tokens)
    if data is None:
        raise Refused(f"mobilequant learns by running the model: {why_not}")
    return evaluation(model, calibration, part="calibration").inputs, data


def _document(made: IntegerVariant, quality: pd.DataFrame, compared: Comparison) -> dict[str, Any]:
    return {
        "model": {"name": made.base.name, "method": repr(made.method), "data": quality.attrs["data"]},
        "networks": quality.to_dict("records"),
        "learning": {"seconds": made.seconds, "losses": list(made.losses), **made.facts},
        "exact": compared.exact,
        "kl_to_fake_quantization": compared.kl,
        "points": _points(made, compared),
    }


def _points(made: IntegerVariant, compared: Comparison) -> list[dict[str, Any]]:
    """A row for each point: its ranges, and the codes that differ from the simulation and from fake quantization."""
    tables = {"": compared.simulation, "step_": compared.step, "fake_": compared.fake}
    counts = {start: table.set_index("point").to_dict("index") for start, table in tables.items()}
    found = []
    for row in made.ranges().to_dict("records"):
        here = {start: by_point[row["point"]] for start, by_point in counts.items()}
        differ = {"codes": here[""]["codes"], "differ": here[""]["differ"]}
        usual = {f"{s}{k}": here[s][k] for s in ("step_", "fake_") for k in ("share", "largest")}
        found.append({**row, **differ, **usual})
    return found


def _tables(made: IntegerVariant, quality: pd.DataFrame, compared: Comparison) -> list[Table]:
    facts = ", ".join(f"{name} {value:.4g}" for name, value in made.facts.items())
    units = [f"{name}: {quality.attrs['columns'][name]}" for name in quality]
    caption = [
        *units,
        f"measured on {quality.attrs['data']}",
        f"learned in {made.seconds:.0f} s: {facts}",
        str(compared),
    ]
    title = f"{made.base.name}: {made.label}"
    points = _points(made, compared)
    columns = ["point", "bits", "start_low", "start_high", "low", "high", "differ"]
    columns += ["step_share", "step_largest", "fake_share", "fake_largest"]
    said = (
        "start_low to start_high: range with SmoothQuant's scales; low to high: learned\n"
        "differ: codes that are not those of the simulation in float64\n"
        "fake_share, fake_largest: share of codes that are not those of fake quantization, and by how much at most\n"
        "step_share, step_largest: the same where both are given the same codes before each operation"
    )
    return [
        Table(title, quality.to_dict("records"), list(quality), "\n".join(caption)),
        Table("Points", points, columns, said),
    ]
