"""A session on paper: as the Python of what is on the screen, and as a file to come back to."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import Recipe, Step, Variant, apply
from ..errors import Refused
from ..methods import parse_method
from ..model import Model
from .tables import measured

if TYPE_CHECKING:
    from .session import Session


def code(session: Session) -> str:
    """Load, the layer under the method, its curve, the active variant, its measures, spectra, other networks."""
    target = _address(session.model)
    load = f"wb.load({target!r})" if target else f"wb.load(network)  # {session.model.name}, in memory"
    lines = [
        "import workbench as wb",
        "",
        f"model = {load}",
        "",
        "# the layer on the bench",
        f"method = wb.{session.method!r}",
        f"errors = wb.inspect.layer(model, {session.layer.name!r}, method)",
        "print(errors.to_string(index=False))",
    ]
    lines += _curve_code(session)
    if session.history.variant.recipe.steps:
        lines += _variant_code(session)
    lines += _spectra_code(session)
    if session.networks is not None:
        lines += session.networks.code(session.data)
    return "\n".join(lines) + "\n"


def _curve_code(session: Session) -> list[str]:
    """The curve under the map; of a method that asks for statistics, of the layer that it alone has changed."""
    if session.curve is None:
        return []
    made = "method.compress(w)"
    lines = ["", "# the curve under the map", f"w = model.base_weight({session.layer.name!r})"]
    if session.method.needed or session.method.works_on == "block":
        lines += [
            'calibration = wb.evaluation(model, part="calibration").inputs_only()',
            f"step = wb.Step(method, {session.layer.name!r})",
            "alone = wb.apply(model, wb.Recipe([step]), calibration=calibration)",
        ]
        made = f"alone.weights[{session.layer.name!r}]"
    return [*lines, f"wb.inspect.{session.curve.__name__}(w, {made}, {session.layer.name!r}).figure().show()"]


def _spectra_code(session: Session) -> list[str]:
    found, variant = session.spectra, session.history.variant
    if found is None or found.subject is not (variant if variant.weights else session.model):
        return []  # of another variant than the one on the screen
    if variant.weights and not variant.recipe.steps:
        return ["", "# the spectra of all layers are of overlays that the model came with, in memory"]
    return [
        "",
        "# the spectra of all layers",
        f"spectra = {found.code}",
        "print(spectra.table.to_string(index=False))",
        "spectra.figure().show()",
    ]


def _variant_code(session: Session) -> list[str]:
    variant, data = session.history.variant, session.data.code if not session.why_not else ""
    steps = ", ".join(_qualified(step) for step in variant.recipe)
    label = f", label={variant.recipe.label!r}" if variant.recipe.named else ""
    calibration, lines = "", []
    if any(s.method.needed or s.method.works_on == "block" for s in variant.recipe):
        lines += ["", 'calibration = wb.evaluation(model, part="calibration").inputs_only()']
        calibration = ", calibration=calibration"
    whole = "" if not variant.partial else f" (cancelled here after {len(variant.methods)} layers)"
    lines += [
        "",
        f"# the active variant{whole}",
        f"variant = wb.apply(model, wb.Recipe([{steps}]{label}){calibration})",
    ]
    if variant.measures:
        given = f"data = wb.evaluation(model, {data})" if data else "# data  # the data given to the bench"
        lines += [
            given,
            "measures = wb.inspect.model(variant, data)",
            "print(measures.to_string(index=False))",
        ]
    return lines


def save(session: Session, target: Path) -> Path:
    """Model, layer, method, selector, and the tree of variants as recipes; beside its place first, then renamed."""
    model = _address(session.model)
    if model is None:
        raise Refused(f"{session.model.name} is in memory and would be gone: save it as a checkpoint first")
    state = {
        "model": model,
        "layer": session.layer.name,
        "method": repr(session.method),
        "selector": session.selector,
        "active": session.history.active,
        "variants": [
            {
                "recipe": node.variant.recipe.to_yaml(),
                "parent": node.parent,
                "only": sorted(node.variant.methods) if node.variant.partial else None,
            }
            for node in session.history.nodes[1:]
        ],
    }
    beside = target.with_name(target.name + ".part")
    beside.write_text(json.dumps(state, indent=1) + "\n", "utf-8")
    os.replace(beside, target)
    return target


def resume(kind: type[Session], path: Path) -> Session:
    """The session that `save` wrote. Refused where the file is none."""
    from ..files.load import load

    try:
        state = json.loads(path.read_text("utf-8"))
        address, layer, method = (str(state[key]) for key in ("model", "layer", "method"))
        selector, active = str(state["selector"]), int(state["active"])
        variants = [(str(v["recipe"]), int(v["parent"]), v["only"]) for v in state["variants"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise Refused(f"the session {path} cannot be read: {reason}") from None
    session = kind(load(address), layer=layer, method=parse_method(method))
    for text, parent, only in variants:
        session.history.add(_again(session, Recipe.from_yaml(text, str(path)), only), parent)
    session.selector = selector
    session.history.go(active)
    return session


def _again(session: Session, recipe: Recipe, only: list[str] | None) -> Variant:
    """A variant made anew; one that was cancelled (`only` those layers) comes back with the layers it had."""
    made = apply(session.model, recipe, calibration=session.calibration(recipe))
    if only is not None:
        weights = {name: made.weights[name] for name in only}
        return replace(made, weights=weights, methods={n: made.methods[n] for n in only}, partial=True)
    return made if session.why_not else measured(made, session.quality)


def _address(model: Model) -> str | None:
    """What `workbench.load` takes to open the model again from anywhere; None for one in memory."""
    from ..model import zoo

    path = model.folder or getattr(model.source, "path", None)
    if zoo.is_embedded(model.name) and path == zoo.embedded(model.name).folder:
        return model.name
    return None if path is None else os.path.abspath(path)


def _qualified(step: Step) -> str:
    return f"wb.{step.method!r}" if step.layers == "*" else f"wb.Step(wb.{step.method!r}, {step.layers!r})"
