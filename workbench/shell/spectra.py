"""`workbench spectra`: eigenvalues of the weights and what they say, before and after a recipe; recipes from alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Refused, near
from .options import CALIBRATION, JSON, LAYERS, MODEL, writable
from .report import Report, Table, run_job
from .work import calibration_batches, left_out, make_plan

if TYPE_CHECKING:
    import pandas as pd

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
    "peak": ("alpha_peak", "D_peak"),
    "farms": ("alpha_farms", "farms_window"),
}
AFTER = ("method", "edge", "lost", "right_overlap", "after_alpha")
LAST = ("warning", "reason")
ALONE = (
    "each layer is compressed alone, on statistics of the unchanged model; measure and compress go block by block "
    "through what is compressed already, so their weights differ a little"
)


def spectra(
    model: MODEL,
    layers: LAYERS = "*",
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="R.yaml",
            help="compress each layer by this recipe, alone and on statistics of the unchanged model (measure and "
            "compress go block by block)",
        ),
    ] = None,
    calibration: CALIBRATION = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="further columns, repeatable: mp, randomize, detX, tails, peak, farms, or all",
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
    stride: Annotated[
        int | None, typer.Option(help="a FARMS window every so many rows and columns, in place of --windows")
    ] = None,
    ratio: Annotated[float, typer.Option(help="columns to rows of a FARMS window")] = 1.0,
    estimator: Annotated[str, typer.Option(help="of FARMS: median, peak or search")] = "median",
    seed: Annotated[int, typer.Option(help="of the random orders of --extra randomize")] = 0,
    allocate: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="a recipe from alpha: Wanda(sparsity=0.5), RTN(bits=4), or a name"
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="of the recipe: alpha, alpha_hill, alpha_peak (as AlphaPruning's code) or alpha_farms"
        ),
    ] = "alpha",
    eps: Annotated[
        float, typer.Option(help="of the recipe: shares from 1 - eps to 1 + eps times the mean")
    ] = 0.3,
    by: Annotated[str, typer.Option(help="of the recipe: block or layer")] = "block",
    out: Annotated[Path | None, typer.Option(metavar="R.yaml", help="write that recipe here")] = None,
    as_json: JSON = False,
) -> Report:
    """Eigenvalues, heavy-tail fits, ranks and the bulk of noise of the weights, before and after a recipe."""
    from ..engine import Recipe
    from ..engine.allocation import EXTRA_OF
    from ..engine.spectra import spectra_frame, spectra_rows
    from ..files.load import load
    from ..spectra import EXTRAS, Reading

    names = _words(extra or [], EXTRAS)
    if allocate is not None and metric in EXTRA_OF:
        names.add(EXTRA_OF[metric])
    extras = tuple(name for name in EXTRAS if name in names)
    reading = Reading(conv, extras, rows, ratio, windows, estimator, seed, stride)
    method = None if allocate is None else _method(allocate)
    _check(method, metric, eps, by, heads, out)
    report = Report()
    steps = Recipe.load(recipe) if recipe else Recipe()
    found = load(model)
    chosen = found.select(layers)
    made, said = None, {}
    if steps:
        planned = make_plan(report, found, steps, {layer.name for layer in chosen})
        batches = calibration_batches(report, found, planned, calibration)
        made, said = _compressor(found, planned, batches), left_out(planned)
        if batches is not None:
            report.say(ALONE)
    records = run_job(
        "spectra",
        lambda job: list(spectra_rows(found, layers, reading, heads=heads, made=made, job=job)),
    )
    frame = spectra_frame(records, reading, found.name)
    report.document = {"layers": records, **said}
    report.tables = [_table(frame, reading, found.name)]
    if method is not None:
        # As in a plan: "*" leaves embeddings and heads alone, a selector that names them does not.
        _allocated(report, frame, method, metric, eps, by, out, spare=layers.strip() == "*")
    return report


def _check(method: Method | None, metric: str, eps: float, by: str, heads: bool, out: Path | None) -> None:
    """Refused before anything is measured."""
    from ..engine.allocation import METRICS, check_allocation

    if method is None:
        if out is not None:
            raise Refused(
                '--out writes the recipe of --allocate: give that too, such as "Wanda(sparsity=0.5)"'
            )
        return
    if metric not in METRICS:
        raise Refused(f"--metric {metric!r} is none of {', '.join(METRICS)}{near(metric, METRICS)}")
    check_allocation(method, eps=eps, by=by)
    if heads:
        raise Refused("a recipe of --allocate is for whole layers: leave --heads out")
    if out is not None:
        writable(out, f"--out {out}: the recipe")


def _words(given: Sequence[str], known: Mapping[str, Any]) -> set[str]:
    """Names, in one word with commas or in several; "all" is every one."""
    words = [word.strip() for each in given for word in each.split(",") if word.strip()]
    if "all" in words:
        return set(known)
    if unknown := [word for word in words if word not in known]:
        raise Refused(f"--extra {unknown[0]!r} is none of {', '.join(known)}, all{near(unknown[0], known)}")
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
    report: Report,
    frame: pd.DataFrame,
    method: Method,
    metric: str,
    eps: float,
    by: str,
    out: Path | None,
    *,
    spare: bool,
) -> None:
    """The recipe that alpha makes: into the document, a table, and a file."""
    from ..engine.allocation import allocate, allocated, left_alone, parameter

    given = allocated(frame, method, metric=metric, eps=eps, by=by, spare=spare)
    recipe = allocate(frame, method, metric=metric, eps=eps, by=by, spare=spare)
    alone = left_alone(frame, method, spare=spare)
    report.document["recipe"] = {
        "metric": metric, "by": by, "eps": eps, "assignment": given, "left_alone": alone, "yaml": recipe.to_yaml()
    }  # fmt: skip
    if out is not None:
        recipe.save(out)
    name = parameter(method)
    facts = frame.set_index("name")
    rows = [{"layer": layer, metric: facts[metric][layer], name: value} for layer, value in given.items()]
    sizes = facts["N"] * facts["M"] * facts["rf"]
    mean = sum(value * sizes[layer] for layer, value in given.items()) / sizes[list(given)].sum()
    lines = [
        f"{method.label} with its own {name} for each {by}, from {metric}; mean over their weights {mean:.4g}"
    ]
    lines += [f"{layer}: {reason}" for layer, reason in alone.items()]
    lines += [f"written to {out}"] if out else []
    report.tables.append(Table("Recipe", rows, ["layer", metric, name], "\n".join(lines)))
