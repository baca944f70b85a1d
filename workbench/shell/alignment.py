"""`workbench align`: two trainings of one architecture before and after their units match, or the mean of more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Refused
from .options import JSON, TEXT
from .report import Report, Table, progress, run_job
from .work import check_text

if TYPE_CHECKING:
    from ..inspect import MergedNetworks, TwoNetworks
    from ..measure import Evaluation
    from ..model import Model


def align(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C ...]",
            help="two networks of one architecture, or more to be merged; named as MODEL elsewhere",
            show_default=False,
        ),
    ],
    points: Annotated[
        int, typer.Option(help="of the line between two, both ends included; 25 as in the papers' plots")
    ] = 11,
    orders: Annotated[int, typer.Option(help="random orders that matching two networks tries")] = 3,
    seed: Annotated[int, typer.Option(help="of those orders")] = 0,
    images: Annotated[
        int, typer.Option(help="images, or windows of text, that the loss is measured on")
    ] = 1000,
    text: TEXT = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="write the mean of the matched networks here, as a checkpoint"),
    ] = None,
    as_json: JSON = False,
) -> Report:
    """Match the hidden units of networks trained apart: the loss between two before and after, or the mean of more."""
    from ..files.export import check_export, export
    from ..files.load import load
    from ..inspect import MergedNetworks, TwoNetworks

    if len(models) < 2:
        raise Refused(f"align takes two networks or more: give another one beside {models[0]}")
    if images < 1:
        raise Refused(f"--images {images} is nothing to measure a loss on: give 1 or more")
    found = [load(name) for name in models]
    data = _data(found[0], text, images)
    if out is not None:
        check_export(found[0], out)
    if len(found) == 2:
        pair = TwoNetworks(*found, data=data, points=points, orders=orders, seed=seed)
        run_job("aligning", pair.compute)
        report, mean = _pair(pair), (lambda: pair.middle)
    else:
        merged = MergedNetworks(found, data=data, seed=seed)
        run_job("merging", merged.compute)
        report, mean = _merged(merged), (lambda: merged.merged)
    if out is not None:
        with progress("writing") as tell:
            report.document["written"] = export(mean(), out, step=tell)
        report.say(f"wrote the mean of {len(found)} matched networks to {out}")
    return report


def _data(model: Model, text: Path | None, count: int) -> Evaluation:
    from ..inspect.alignment import WINDOWS
    from ..measure import evaluation

    if text is not None:
        check_text(model, text, "--text")
    if model.task == "language":
        context = model.runner.context or 512
        # A window is hundreds of predictions: few do, unless more are asked for.
        windows = count if count != 1000 else WINDOWS
        return evaluation(model, text, tokens=windows * context)
    return evaluation(model).first(count)


def _pair(pair: TwoNetworks) -> Report:
    from ..engine.alignment import LINE_COLUMNS
    from ..inspect.alignment import NETWORK_COLUMNS

    before, after = pair.aligned.distances
    rows = [{"line": name, **row} for name, frame in pair.lines.items() for row in frame.to_dict("records")]
    layers, groups = pair.table.to_dict("records"), pair.groups.to_dict("records")
    document = {
        "networks": [pair.a.name, pair.b.name],
        "data": pair.data.what,
        "barrier": pair.barriers,
        "distance": {"naive": before, "matched": after},
        "objective": {
            "naive": pair.aligned.matching.objective[0],
            "matched": pair.aligned.matching.objective[-1],
        },
        "line": rows,
        "layers": layers,
        "groups": groups,
    }
    barriers = ", ".join(f"{name} {value:.4g}" for name, value in pair.barriers.items())
    units = [f"{name}: {LINE_COLUMNS[name]}" for name in ("t", "loss", "barrier")]
    lines = Table(
        f"From {pair.a.name} to {pair.b.name}",
        rows,
        ["line", *LINE_COLUMNS],
        "\n".join([*units, f"measured on {pair.data.what}", f"highest barrier in nats: {barriers}"]),
    )
    shown = [name for name in NETWORK_COLUMNS if name != "role"]
    said = [f"{name}: {NETWORK_COLUMNS[name]}" for name in shown[1:]]
    said.append(f"all weights together: {before:.4g} before, {after:.4g} after")
    tables = [
        lines,
        Table("Layers", layers, shown, "\n".join(said)),
        Table(
            "Groups of units",
            groups,
            ["group", "size", "inside", "log10_orders", "tensors"],
            "log10_orders: of the number of orders that the units can have; tensors: how many they move",
        ),
    ]
    return Report(document, tables)


def _merged(merged: MergedNetworks) -> Report:
    from ..inspect.merging import MERGE_COLUMNS

    rows = merged.table.to_dict("records")
    document = {
        "networks": [model.name for model in merged.models],
        "data": merged.data.what,
        "merged": rows,
        "spread": {"naive": merged.spread[0], "matched": merged.spread[-1]},
    }
    units = [f"{name}: {MERGE_COLUMNS[name]}" for name in ("loss", "accuracy")]
    units += [
        f"measured on {merged.data.what}",
        f"squared distances to the mean: {merged.spread[0]:.4g} before, {merged.spread[-1]:.4g} after",
    ]
    title = f"Mean of {len(merged.models)} networks"
    return Report(document, [Table(title, rows, list(MERGE_COLUMNS), "\n".join(units))])
