"""What composes on one layer, and how: transforms first, then pruning and rounding, then activations, then bias.

The mathematics decides. Scales of the input channels can be applied under any rounding; two roundings cannot, so the
later one wins, except that a rounding that also makes scales (AWQ) lends them to the one after it. A mask stays on the
codes. What would undo an earlier step is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight, Report, uncompressed
from ..methods import Finish, Method, Statistics, Transform, storable

NO_STATISTICS = Statistics()


def added(before: Sequence[Method], new: Method) -> tuple[Method, ...]:
    """The methods of a layer after one more step for it. Refused where the step does not compose."""
    if reason := objection(before, new):
        raise Refused(f"{new.label} does not compose with what is before it: {reason}")
    kept = [m for m in before if not _replaces(new, m)]
    return (*kept, new)


def _replaces(new: Method, old: Method) -> bool:
    if old.name == new.name:
        return True
    if isinstance(old, Transform):  # its scales stay; of two pure transforms both work
        return isinstance(new, Transform) and new.kind == old.kind == "quantize"
    return old.kind == new.kind


def objection(before: Sequence[Method], new: Method) -> str:
    """Why `new` cannot follow `before` on one layer; empty where it can."""
    roundings = [m for m in before if m.kind == "quantize" and m.name != new.name]
    finishing = [m for m in before if isinstance(m, Finish) and m.kind == "correct"]
    joint = [m for m in before if m.kind == "prune" and m.rounds]
    if new.kind == "transform" and (roundings or joint):
        return (
            f"its scales change the weights that {(roundings or joint)[0].label} has rounded: put it before"
        )
    if isinstance(new, Transform) and new.kind == "quantize" and roundings and new.name != roundings[-1].name:
        if not isinstance(roundings[-1], Transform):
            return ""  # one rounding after another of the same kind: the later wins
    if finishing and new.kind in ("transform", "prune", "quantize", "activation"):
        return f"{finishing[0].label} corrects what is left over: put it last"
    if new.kind == "quantize" and joint:
        return (
            f"{joint[0].label} rounds already while it prunes: leave one of them out, or set its bits to none"
        )
    if new.kind == "prune" and new.rounds and roundings:
        return f"it rounds while it prunes, and so does {roundings[-1].label}: leave one of them out"
    return ""


def notes(methods: Sequence[Method]) -> list[str]:
    """What is worth knowing of a composition before the work."""
    found = []
    scaling = [m for m in methods if isinstance(m, Transform)]
    rounding = next((m for m in reversed(methods) if m.kind == "quantize"), None)
    if len(scaling) > 1:
        found.append(
            f"{scaling[0].label} and {scaling[1].label} scale the same channels: their scales are multiplied"
        )
    if scaling and rounding is not None and rounding is not scaling[-1] and scaling[-1].kind == "quantize":
        found.append(
            f"{scaling[-1].label} gives its scales, {rounding.label} the codes; clipping is left to the latter"
        )
    if scaling and getattr(rounding, "granularity", "") == "input":
        found.append(
            "groups inside one input channel undo any input scale: the transform changes nothing there"
        )
    return found


def compress(
    w: Tensor,
    methods: Iterable[Method],
    statistics: Statistics | None = None,
    scales: Mapping[str, tuple[Tensor, Report]] | None = None,
) -> CompressedWeight:
    """One weight [out, in] through the methods of a layer, in their order, transforms first.

    `scales` by name are those [in] of transforms that were found for several layers together, and what was learned
    then; others are found here. Methods of the whole model have done their work already.
    The mask of a pruner stays on the codes of a quantizer, whichever came first.
    """
    listed = list(methods)
    if not listed:
        raise Refused("no method was given: a recipe's step names one")
    known = statistics or NO_STATISTICS
    listed = [method for method in listed if not method.whole_model]
    total: Tensor | None = None
    learned = Report()
    for transform in (m for m in listed if isinstance(m, Transform)):
        known = transform.given(known)
        s, report = (scales or {}).get(transform.name) or transform.search([w], known)
        s, learned = storable(s), learned + report
        w, known = w * s, known.scaled(s)
        total = s if total is None else total * s
    rounding = next((m for m in reversed(listed) if m.kind == "quantize"), None)
    made: CompressedWeight | None = None
    for method in listed:
        if isinstance(method, Transform) and method is not rounding:
            continue
        if isinstance(method, Finish):
            made = method.finish(w, uncompressed(w) if made is None else made, method.given(known))
            continue
        if made is not None:
            known = with_mask(known, made.mask)
        current = w if made is None else made.dequantize()
        step = (
            method.compress_scaled(current, known)
            if isinstance(method, Transform)
            else method.compress(current, known if known is not NO_STATISTICS else None)
        )
        if made is None:
            made = step
        elif method.kind == "prune":
            made = (
                made.with_mask(step.mask, step.n_m)
                if not method.updates
                else step.with_mask(made.mask, made.n_m)
            )
        else:
            made = step.with_mask(made.mask, made.n_m)
    made = (uncompressed(w) if made is None else made).with_report(learned)
    return made if total is None else made.with_input_scale(total)


def with_mask(statistics: Statistics, mask: Tensor | None) -> Statistics:
    return statistics if mask is None else replace(statistics, mask=mask)


def compared(w: Tensor, made: CompressedWeight, methods: Sequence[Method], statistics: Statistics) -> Report:
    """What the layer's error is beside that of the plain method with the same bits, on the calibration inputs; losing
    to it is a warning."""
    rounding = next((m for m in reversed(methods) if m.baseline is not None), None)
    error = output_error(w, made, statistics)
    if error is None:
        error = _weight_error(w, made)
        of = "weight error"
    else:
        of = "output error"
    if rounding is None or rounding.baseline is None:
        return Report(facts={of: error})
    plain = rounding.baseline
    other = replace(plain.compress(w, statistics), inputs=made.inputs)
    theirs = output_error(w, other, statistics) if of == "output error" else _weight_error(w, other)
    assert theirs is not None
    report = Report(facts={of: error, f"{of} of {plain.name}": theirs})
    if error > theirs * (1 + 1e-6):
        return report.warn(f"worse than {plain.label}: {of} {error:.3g} against {theirs:.3g}")
    return report


def output_error(w: Tensor, made: CompressedWeight, statistics: Statistics) -> float | None:
    """||y' - y|| / ||y|| of the layer's output y = x w^T, with the input quantized and the output shifted where that
    belongs to `made`; from the Hessian where it does not, else from the sample; None where nothing was collected."""
    running = made.running()
    if running.inputs is None and running.shift is None:
        return statistics.output_error(w, running.matrix - w)
    if statistics.sample is None:
        return None
    x = statistics.sample
    y = x @ w.T
    found = (x if running.inputs is None else running.inputs(x)) @ running.matrix.T
    if running.shift is not None:
        found = found + running.shift
    size = float(torch.linalg.vector_norm(y))
    return float(torch.linalg.vector_norm(found - y)) / size if size > 0 else None


def _weight_error(w: Tensor, made: CompressedWeight) -> float:
    size = float(torch.linalg.vector_norm(w))
    return float(torch.linalg.vector_norm(made.dequantize() - w)) / size if size > 0 else 0.0
