"""The shell: `workbench VERB`. Each verb prints a readable table, or with `--json` one JSON document on stdout.

Exit status: 0 done, 1 failed with one line on stderr, 2 wrong usage, 130 interrupted. Nothing heavy is imported
before a verb needs it. Names of verbs, options and columns are a contract with other people's scripts.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .errors import Refused
from .shell.alignment import align
from .shell.design import design
from .shell.emulate import emulate
from .shell.mobilequant import mobilequant
from .shell.options import CALIBRATION, JSON, KEEP, MODEL, PREFIX, RECIPE, TEXT, THE_RECIPE
from .shell.outliers import outliers
from .shell.report import Report, Table, cell, progress, run_job, verb
from .shell.sensitivity import sensitivity
from .shell.spectra import spectra
from .shell.speed import speed
from .shell.work import (
    evaluation_data,
    folded,
    layer_table,
    left_out,
    make_plan,
    make_variant,
    model_table,
)

app = typer.Typer(
    name="workbench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"workbench {__version__}")
        raise typer.Exit


@app.callback()
def _workbench(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take trained networks apart: quantize, prune, measure. Every verb but lab has --json."""


@app.command()
@verb
def lab(
    notebook: Annotated[
        str | None, typer.Argument(metavar="[NOTEBOOK]", help="a path or a name; default: the start page")
    ] = None,
    browser: Annotated[bool, typer.Option(help="open a browser")] = True,
    port: Annotated[int | None, typer.Option(help="of the server; default: the first free one")] = None,
) -> Report:
    """Open JupyterLab on the start page."""
    from .widgets.lab import open_lab

    raise typer.Exit(open_lab(notebook, browser, port))


@app.command()
@verb
def zoo(as_json: JSON = False) -> Report:
    """The embedded models and data."""
    from .model import zoo

    root = zoo.data_folder()
    models = [_zoo_model(entry) for entry in zoo.MODELS if entry.here]
    data = [
        {"name": file.relative_to(root).as_posix(), "bytes": file.stat().st_size, "path": str(file)}
        for file in sorted(root.rglob("*"))
        if file.is_file() and _is_data(file, {entry.folder for entry in zoo.MODELS})
    ]
    rows = [{**model, "scores": _words(model["scores"])} for model in models]
    return Report(
        {"models": models, "data": data},
        [
            Table("Models", rows, ["name", "task", "parameters", "bytes", "scores", "folder"]),
            Table("Data", data, ["name", "bytes", "path"]),
        ],
    )


def _zoo_model(entry: Any) -> dict[str, Any]:
    try:
        record = entry.record
    except OSError:
        record = {}
    parameters = record.pop("parameters", None)
    scores = {k: v for k, v in record.items() if k not in ("log", "tokens_seen")}
    return {
        "name": entry.name,
        "task": entry.task,
        "summary": entry.summary,
        "parameters": parameters,
        "bytes": entry.nbytes,
        "scores": scores,
        "evaluation": entry.evaluation,
        "folder": str(entry.folder),
    }


def _is_data(file: Path, models: set[Path]) -> bool:
    """Texts and images; not the cards, nor what belongs to a model."""
    if file.parent in models:
        return file.name.startswith(("evaluation", "calibration"))
    return file.suffix in (".txt", ".safetensors")


def _words(scores: Mapping[str, Any]) -> str:
    """{"accuracy": 0.9} as "accuracy 0.9"."""
    shown = [f"{k} ({_words(v)})" if isinstance(v, Mapping) else f"{k} {cell(v)}" for k, v in scores.items()]
    return ", ".join(shown)


@app.command()
@verb
def methods(as_json: JSON = False) -> Report:
    """Every method, its parameters, their bounds, and what it needs."""
    from .methods import METHODS, parameters_of

    found = []
    for name in METHODS:
        method = METHODS[name]
        keys = ("name", "type", "default", "bounds", "low", "high", "choices", "help")
        parameters = [{key: getattr(p, key) for key in keys} for p in parameters_of(method)]
        found.append(
            {
                "name": name,
                "kind": method.kind,
                "summary": method.summary,
                "source": method.source,
                "needs": sorted(method().needed),
                "parameters": parameters,
            }
        )
    tables = [Table("Methods", found, ["name", "kind", "needs", "summary", "source"])]
    tables += [
        Table(
            f"Parameters of {method['name']}",
            [{**p, "default": str(p["default"])} for p in method["parameters"]],
            ["name", "type", "default", "bounds", "help"],
        )
        for method in found
    ]
    return Report({"methods": found}, tables)


@app.command()
@verb
def layers(model: MODEL, as_json: JSON = False) -> Report:
    """The layer table of a checkpoint, from its headers alone."""
    from .files.load import load

    found = load(model)
    records = found.records()
    columns = ["name", "role", "block", "rows", "columns", "dtype", "parameters", "note"]
    return Report({"layers": records}, [Table(repr(found), records, columns)])


@app.command()
@verb
def measure(
    model: MODEL,
    recipe: RECIPE = None,
    text: TEXT = None,
    calibration: CALIBRATION = None,
    tokens: Annotated[int | None, typer.Option(help="of the text; default: 4096", show_default=False)] = None,
    keep: KEEP = None,
    prefix: PREFIX = "compressed",
    as_json: JSON = False,
) -> Report:
    """What a recipe does to each layer and to the model; without one, the unchanged model."""
    from . import inspect
    from .engine import Recipe
    from .files.load import load
    from .measure import Quality, storage

    report = Report()
    steps = Recipe.load(recipe) if recipe else Recipe()
    found = load(model)
    planned = make_plan(report, found, steps)
    data, why_not = evaluation_data(found, text, tokens)
    variant = make_variant(report, found, planned, calibration, keep, prefix)
    stored, before = storage(found, variant.weights), storage(found, {})
    row, unchanged = {**dict.fromkeys(("perplexity", "kl", "top1_agreement")), **stored}, before
    try:
        if data is None:
            raise Refused(why_not)
        quality = Quality(found, data)
        with progress("measuring") as tell:
            row = {**quality.measure(variant.weights, tell, variant.vectors), **stored, "data": data.what}
        unchanged = {**(quality.unchanged or {}), **before}
        row |= {f"base_{k}": v for k, v in unchanged.items() if k not in ("kl", "top1_agreement")}
    except Refused as error:
        if not planned.work:
            raise
        data, row["why_not"] = None, str(error)  # the layers can be compared all the same
        report.say(f"no model measures: {error}")
    frame = run_job("comparing", lambda job: inspect.layers(variant, data, job))
    head = {"name": found.name, "task": found.task, "recipe": steps.label}
    report.document = {
        "model": {**head, **row},
        "layers": frame.to_dict("records"),
        **left_out(planned),
    }
    report.tables = [model_table(found, steps, row, unchanged)]
    if planned.work:
        report.tables.append(layer_table(frame, data))
    return report


@app.command()
@verb
def compress(
    model: MODEL,
    recipe: THE_RECIPE,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="a new or empty folder to write to", show_default=False)
    ],
    format: Annotated[str, typer.Option(help="what to write")] = "safetensors",
    calibration: CALIBRATION = None,
    keep: KEEP = None,
    prefix: PREFIX = "compressed",
    fold: Annotated[
        bool, typer.Option("--fold", help="move input scales (AWQ, SmoothQuant) into norms and layers before")
    ] = False,
    as_json: JSON = False,
) -> Report:
    """Apply a recipe and write the result as a checkpoint that loads wherever the original does."""
    from . import inspect
    from .engine import Recipe
    from .files.export import check_export, export
    from .files.load import load
    from .measure import storage

    report = Report()
    steps = Recipe.load(recipe)
    found = load(model)
    planned = make_plan(report, found, steps)
    shifted = [e.layer.name for e in planned.work if any(m.kind == "correct" for m in e.methods)]
    check_export(found, out, format, shifted)
    variant = make_variant(report, found, planned, calibration, keep, prefix)
    frame = run_job("comparing", lambda job: inspect.layers(variant, job=job))
    if fold:
        variant = folded(report, variant)
    with progress("writing") as tell:
        written = export(variant, out, format=format, step=tell)
    for note in written["notes"]:
        report.say(note)
    packed = storage(found, variant.weights)
    report.document = {
        **written,
        "bits_per_weight": packed["bits_per_weight"],
        "layers": frame.to_dict("records"),
        **left_out(planned),
    }
    caption = (
        f"{written['folder']}: {written['format']}, {cell(written['bytes'])} bytes; "
        f"{packed['bits_per_weight']:.3f} bits per weight if packed"
    )
    report.tables = [layer_table(frame, None, caption)]
    return report


app.command()(verb(align))
app.command()(verb(sensitivity))
app.command()(verb(design))
app.command()(verb(mobilequant))
app.command()(verb(outliers))


app.command()(verb(spectra))
app.command()(verb(speed))
app.command()(verb(emulate))


def main() -> None:
    """The command `workbench`."""
    # Libraries keep their advice to themselves; what matters of it is said in the shell's own words.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    app(prog_name="workbench")


if __name__ == "__main__":
    main()
