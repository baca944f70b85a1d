"""`workbench spectra`: eigenvalues of the weights and what they say, before and after a recipe; recipes from alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Refused
from .options import CALIBRATION, JSON, LAYERS, MODEL, RECIPE
from .report import Report, Table, run_job
from .work import calibration_batches, left_out, make_plan

if TYPE_CHECKING:
    import pandas as pd

    from ..engine import Recipe
    from ..engine.spectra import Made
    from ..methods import Method, Statistics
    from ..model import Layer
    from ..spectra import Reading

FIRST = (
    "name",
    "role",
    "head",
    "M",
    "N",
    "alpha",
    "D",
    "sigma",
    "xmin",
    "log_norm",
    "stable_rank",
    "effective_rank",
)
BY_EXTRA = {
    "mp": ("num_spikes", "bulk_max", "mp_problem"),
    "randomize": ("rand_distance", "num_traps"),
    "detX": ("detX_num", "ERG_gap"),
    "tails": ("best_fit", "Lambda"),
    "farms": ("alpha_farms", "farms_window"),
}
AFTER = ("method", "edge", "lost", "right_overlap", "after_alpha")
LAST = ("warning", "reason")


def spectra(
    model: MODEL,
    layers: LAYERS = "*",
    recipe: RECIPE = None,
    calibration: CALIBRATION = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="further columns, repeatable: mp, randomize, detX, tails, farms, or all"
        ),
    ] = None,
    conv: Annotated[
        str, typer.Option(help="how a convolution becomes matrices: slices or im2col")
    ] = "slices",
    heads: Annotated[
        bool, typer.Option("--heads", help="a row for each attention head of q, k, v, o")
    ] = False,
    rows: Annotated[int, typer.Option(help="of a FARMS window")] = 100,
    windows: Annotated[int, typer.Option(help="of FARMS along each dimension")] = 10,
    ratio: Annotated[float, typer.Option(help="columns to rows of a FARMS window")] = 1.0,
    estimator: Annotated[str, typer.Option(help="of FARMS: median, peak or search")] = "median",
    allocate: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="a recipe from alpha: Wanda(sparsity=0.5), RTN(bits=4), or a name"
        ),
    ] = None,
    metric: Annotated[str, typer.Option(help="of the recipe: alpha, alpha_hill, alpha_farms")] = "alpha",
    by: Annotated[str, typer.Option(help="of the recipe: block or layer")] = "block",
    out: Annotated[Path | None, typer.Option(metavar="R.yaml", help="write that recipe here")] = None,
    as_json: JSON = False,
) -> Report:
    """Eigenvalues, heavy-tail fits, ranks and the bulk of noise of the weights, before and after a recipe."""
    from ..engine import Recipe
    from ..engine.spectra import spectra_frame, spectra_rows
    from ..files.load import load
    from ..spectra import EXTRAS, Reading

    if out is not None and allocate is None:
        raise Refused('--out writes the recipe of --allocate: give that too, such as "Wanda(sparsity=0.5)"')
    names = _words(extra or [], EXTRAS) | ({"farms"} if metric == "alpha_farms" and allocate else set())
    extras = tuple(name for name in EXTRAS if name in names)
    reading = Reading(conv, extras, rows, ratio, windows, estimator)
    method = None if allocate is None else _method(allocate)
    report = Report()
    steps = Recipe.load(recipe) if recipe else Recipe()
    found = load(model)
    chosen = found.select(layers)
    made, said = None, {}
    if steps:
        planned = make_plan(report, found, steps, {layer.name for layer in chosen})
        batches = calibration_batches(report, found, planned, calibration)
        made, said = _compressor(found, planned, batches), left_out(planned)
    records = run_job(
        "spectra",
        lambda job: list(spectra_rows(found, layers, reading, heads=heads, made=made, job=job)),
    )
    frame = spectra_frame(records, reading, found.name)
    report.document = {"layers": records, **said}
    report.tables = [_table(frame, reading, found.name)]
    if method is not None:
        _allocated(report, frame, method, metric, by, out)
    return report


def _words(given: Sequence[str], known: Mapping[str, Any]) -> set[str]:
    """Names, in one word with commas or in several; "all" is every one."""
    words = [word.strip() for each in given for word in each.split(",") if word.strip()]
    if "all" in words:
        return set(known)
    if unknown := [word for word in words if word not in known]:
        raise Refused(f"--extra {unknown[0]!r} is none of {', '.join(known)}, all")
    return set(words)


def _method(text: str) -> Method:
    from ..methods import METHODS, parse_method

    return parse_method(text) if "(" in text else METHODS[text]()


def _compressor(model: Any, planned: Any, batches: Any) -> Made:
    """Each layer compressed alone, when its turn comes, with statistics of the unchanged model."""
    from ..engine import collect, compress

    work = {entry.layer.name: entry.methods for entry in planned.work}
    needy = [entry.layer for entry in planned.work if any(m.needed for m in entry.methods)]
    known: dict[str, Statistics] = {} if batches is None else collect(model, needy, planned.needs, batches)

    def made(layer: Layer) -> Any:
        methods = work.get(layer.name)
        if not methods:
            return None
        label = " + ".join(method.label for method in methods)
        return compress(model.base_weight(layer.name), methods, known.get(layer.name)), label

    return made


def _table(frame: pd.DataFrame, reading: Reading, name: str) -> Table:
    extras = [column for extra in reading.extra for column in BY_EXTRA[extra]]
    # The role is in the name already, but for the heads of a fused projection.
    wanted = [column for column in (*FIRST, *extras, *AFTER, *LAST) if column != "role" or "head" in frame]
    columns = [column for column in wanted if column in frame]
    columns = [c for c in columns if c not in LAST or frame[c].astype(str).str.len().any()]
    told = frame.attrs["columns"]
    caption = "\n".join(f"{column}: {told[column]}" for column in columns if column not in ("name", "M", "N"))
    return Table(f"Spectra of {name}", frame.to_dict("records"), columns, caption)


def _allocated(
    report: Report, frame: pd.DataFrame, method: Method, metric: str, by: str, out: Path | None
) -> None:
    """The recipe that alpha makes: into the document, a table, and a file."""
    from ..engine.allocation import allocate, allocated, parameter

    given = allocated(frame, method, metric=metric, by=by)
    recipe: Recipe = allocate(frame, method, metric=metric, by=by)
    report.document["recipe"] = {"metric": metric, "by": by, "assignment": given, "yaml": recipe.to_yaml()}
    if out is not None:
        recipe.save(out)
    name = parameter(method)
    alphas = dict(zip(frame["name"], frame[metric], strict=True))
    rows = [{"layer": layer, metric: alphas[layer], name: value} for layer, value in given.items()]
    caption = f"{method.label} with its own {name} for each {by}, from {metric}" + (
        f"\nwritten to {out}" if out else ""
    )
    report.tables.append(Table("Recipe", rows, ["layer", metric, name], caption))
