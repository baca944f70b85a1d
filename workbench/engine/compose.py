"""What composes on one layer, and how: transforms first, then pruning and rounding, then activations, then bias.

The mathematics decides. Scales of the input channels can be applied under any rounding; two roundings cannot, so the
later one wins, except that a rounding that also makes scales (AWQ) lends them to the one after it. A mask stays on the
codes. What would undo an earlier step is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    return tuple(ordered((*kept, new)))


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


@dataclass
class Work:
    """One weight on its way through the methods of its layer.

    w [out, in] float32 is the weight times `scale` [in], the product of the transforms' scales (None: no transform),
    `statistics` those of the input divided by it. `made` is what the methods so far have made of w.
    """

    w: Tensor
    statistics: Statistics
    rounding: Method | None = None  # of several the last
    scale: Tensor | None = None
    report: Report = field(default_factory=Report)
    made: CompressedWeight | None = None

    @classmethod
    def begun(
        cls,
        w: Tensor,
        methods: Sequence[Method],
        statistics: Statistics | None,
        scales: Mapping[str, tuple[Tensor, Report]] | None = None,
    ) -> Work:
        """After the transforms. `scales` by name are those [in] that were found for several layers together, and what
        was learned then; others are found here. Refused where the weight is not finite."""
        w = w.detach().float().contiguous()
        if not torch.isfinite(w.sum()) and not torch.isfinite(w).all():
            raise Refused("the weight has NaN or infinite values: nothing can be made of it")
        work = cls(w, statistics or NO_STATISTICS)
        work.rounding = next((m for m in reversed(methods) if m.kind == "quantize"), None)
        for transform in (m for m in methods if isinstance(m, Transform)):
            known = transform.given(work.statistics)
            s, report = (scales or {}).get(transform.name) or transform.search([work.w], known)
            s = storable(s)
            work.w, work.statistics = work.w * s, known.scaled(s)
            work.scale = s if work.scale is None else work.scale * s
            work.report = work.report + report
        return work

    @property
    def current(self) -> Tensor:
        """The weight [out, in] as the methods so far have left it."""
        return self.w if self.made is None else self.made.dequantize()

    @property
    def known(self) -> Statistics:
        """The statistics, with what a pruner has removed."""
        return with_mask(self.statistics, None if self.made is None else self.made.mask)

    def add(self, method: Method) -> None:
        """Let one method work; a transform that only lends its scales has done so."""
        if isinstance(method, Transform) and method is not self.rounding:
            return
        if isinstance(method, Finish):
            made = uncompressed(self.w) if self.made is None else self.made
            self.made = method.finish(self.w, made, method.given(self.statistics))
        elif isinstance(method, Transform):
            self.join(method, method.compress_scaled(self.current, self.known))
        else:
            known = self.known
            self.join(method, method.compress(self.current, known if known is not NO_STATISTICS else None))

    def join(self, method: Method, step: CompressedWeight) -> None:
        """Take over what a method has made of `current`: the mask of a pruner stays on the codes of a quantizer,
        whichever came first."""
        before = self.made
        if before is None:
            self.made = step
        elif method.kind == "prune" and not method.updates:
            self.made = before.with_mask(step.mask, step.n_m)
        else:
            self.made = step.with_mask(before.mask, before.n_m)

    @property
    def ended(self) -> CompressedWeight:
        """What became of the weight, for the undivided input."""
        made = (uncompressed(self.w) if self.made is None else self.made).with_report(self.report)
        return made if self.scale is None else made.with_input_scale(self.scale)


def ordered(methods: Iterable[Method]) -> list[Method]:
    """In the order in which they work on a layer: as given, but a pruner that changes what it keeps comes before any
    rounding, quantized inputs after it, corrections last."""
    return sorted(methods, key=_place)


def _place(method: Method) -> int:
    if method.kind == "prune" and method.updates:
        return 1
    return {"transform": 0, "prune": 2, "quantize": 2, "activation": 3, "correct": 4}[method.kind]


def compress(
    w: Tensor,
    methods: Iterable[Method],
    statistics: Statistics | None = None,
    scales: Mapping[str, tuple[Tensor, Report]] | None = None,
) -> CompressedWeight:
    """One weight [out, in] through the methods of a layer, transforms first; see `ordered` and `Work`.

    Methods of the whole model have done their work already. Raises Refused where the weight has NaN, where no method is
    given, and where one misses its statistics.
    """
    listed = list(methods)
    if not listed:
        raise Refused("no method was given: a recipe's step names one")
    listed = ordered(method for method in listed if not method.whole_model)
    work = Work.begun(w, listed, statistics, scales)
    for method in listed:
        work.add(method)
    return work.ended


def with_mask(statistics: Statistics, mask: Tensor | None) -> Statistics:
    """The statistics, knowing what was removed: mask [out, in], True = kept."""
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
    s = made.input_scale if made.inputs is not None else None
    if s is None:
        other = replace(plain.compress(w, statistics), inputs=made.inputs)
    else:  # the quantizer is of the divided input: the plain method gets the same one
        s = s.float()
        other = replace(plain.compress(w * s, statistics.scaled(s)), inputs=made.inputs).with_input_scale(s)
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
