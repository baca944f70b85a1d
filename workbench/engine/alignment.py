"""Two trained networks of one architecture: bring the second onto the first, walk the straight line between them, and
average several.

Hidden units have no order of their own, so two trainings end in two orders and the mean of their weights is no network
at all: its loss is a barrier between the two. After weight matching the barrier falls, for wide networks to almost
nothing (Ainsworth et al. 2023; Entezari et al. 2022). Batch norms keep statistics of activations, and those of a mean
are not the mean of those: they are re-estimated at every point of the line (Jordan et al. 2023, "REPAIR").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import Refused
from ..jobs import Job, require
from ..measure import Evaluation, evaluation
from ..model import Model, Runner
from ..model.model import module_layers
from ..model.runner import Task
from ..spectra import alignment as pure
from ..spectra.alignment import Matching, Merging, Symmetry
from ..spectra.alignment.symmetry import Permutations
from .symmetry import joined, symmetry_of, tensors_of

if TYPE_CHECKING:
    import pandas as pd

ESTIMATED = (
    256  # calibration images that the statistics of batch norms are taken from, in two batches of equal say
)
POINTS = 11  # of the line, both ends included; the plots of the papers have 25
RESTING = (
    1e-3  # nats by which the loss may differ where the function is the same: float32, another order of sums
)

LINE_COLUMNS = {
    "t": "place on the line: 0 the first network, 1 the second",
    "loss": "cross-entropy, nats a token or image",
    "accuracy": "share of images classified right, or of tokens predicted first",
    "barrier": "loss above the straight line between the losses of the ends, nats",
}


@dataclass(frozen=True, eq=False)
class Aligned:
    """Two networks and how the second was brought onto the first. `b` are its tensors as they came, `matched` in their
    new order; all float64, fused ones in parts."""

    symmetry: Symmetry
    a: dict[str, np.ndarray]
    b: dict[str, np.ndarray]
    matching: Matching

    @cached_property
    def matched(self) -> dict[str, np.ndarray]:
        return self.symmetry.apply(self.b, self.matching.permutations)

    @property
    def distances(self) -> tuple[float, float]:
        """||A - B|| before and after."""
        return (
            pure.distance(self.a, self.b, self.symmetry),
            pure.distance(self.a, self.matched, self.symmetry),
        )


def align(a: Model, b: Model, *, orders: int = 3, seed: int = 0, job: Job | None = None) -> Aligned:
    """Match the hidden units of b to those of a; `orders` random orders of the groups are tried.

    Raises Refused for different architectures, for families whose symmetry is not known, and for NaN or Inf."""
    symmetry, (one, two) = _tensors([a, b])

    def step(sweep: int, sweeps: int, objective: float) -> None:
        if job is not None:
            job.step(job.done, job.total, f"matching, sweep {sweep}: <A, B> = {objective:.5g}")

    return Aligned(symmetry, one, two, pure.match(one, two, symmetry, orders=orders, seed=seed, step=step))


def merge(
    models: Sequence[Model], *, seed: int = 0, rounds: int = 20, job: Job | None = None
) -> tuple[Model, Merging]:
    """(the mean network, how it came about) of two or more networks, each permuted towards the mean of the others.

    Where the networks have batch norms their statistics in the mean are re-estimated on the calibration images."""
    if len(models) < 2:
        raise Refused(f"{len(models)} model is nothing to merge: give two or more of one architecture")
    symmetry, tensors = _tensors(models)

    def step(done: int, total: int, text: str) -> None:
        if job is not None:
            job.step(done, total, text)

    found = pure.merge(tensors, symmetry, seed=seed, rounds=rounds, step=step)
    return with_tensors(models[0], found.mean, f"mean of {len(models)} matched networks"), found


def mean(models: Sequence[Model]) -> Model:
    """The plain mean of the weights, without matching: what `merge` is compared with."""
    _, tensors = _tensors(models)
    middle = {name: sum(each[name] for each in tensors) / len(tensors) for name in tensors[0]}
    return with_tensors(models[0], cast(dict, middle), f"plain mean of {len(models)} networks")


def with_tensors(
    model: Model, tensors: Mapping[str, np.ndarray], name: str, *, estimate: bool = True
) -> Model:
    """The same network with these tensors, in memory, float32. `estimate`: take the statistics of batch norms anew, as
    a mean of networks needs it."""
    runner = model.runner
    bench = Blend(model)
    bench.put(tensors, estimate=estimate)
    source, layers = module_layers(bench.module)
    config = model.config | {key: "float32" for key in ("dtype", "torch_dtype") if key in model.config}
    again = Runner(
        lambda: bench.module,
        cast(Task, runner.task),
        runner.context,
        lambda: runner.tokenizer,
        runner.prepare,
    )
    return Model(name, source, layers, config, None, again)


class Blend:
    """A copy of a network whose tensors are replaced as often as one likes; the model itself is never changed.

    A network with batch norms takes their statistics anew from the calibration images whenever its weights change."""

    def __init__(self, model: Model):
        runner = model.runner
        require(4 * model.parameters, f"a second copy of {model.name}", "take a smaller model")
        self.model, self.runner = model, runner
        self.module: nn.Module = copy.deepcopy(runner.module)
        self._state = self.module.state_dict(keep_vars=False)
        self.norms = [
            each for each in self.module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)
        ]
        self._calibration: Evaluation | None = None
        if self.norms:
            few = evaluation(model, part="calibration").first(ESTIMATED)
            self._calibration = replace(few, batch=ESTIMATED // 2)

    def put(self, tensors: Mapping[str, np.ndarray], *, estimate: bool = True) -> None:
        """Replace the tensors; `estimate`: take the batch norms' statistics anew."""
        for name, value in joined(tensors).items():
            self._state[self._name(name)].copy_(value)
        if estimate and self.norms:
            self._estimate()

    def permute(self, permutations: Permutations) -> None:
        """Put the model's own units into this order: the answers stay."""
        self.put(symmetry_of(self.model).apply(tensors_of(self.model), permutations), estimate=False)

    def _name(self, tensor: str) -> str:
        return tensor if tensor in self._state else self.runner.parameter_name(tensor)

    @torch.no_grad()
    def _estimate(self) -> None:
        """Statistics over the calibration images: the mean of the batches' own."""
        assert self._calibration is not None
        momentum = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean instead of a moving one
            norm.train()
        for inputs, _ in self._calibration.batches():
            self._logits(inputs)
        for norm, usual in zip(self.norms, momentum, strict=True):
            norm.momentum = usual
            norm.eval()

    @torch.no_grad()
    def loss(self, data: Evaluation) -> tuple[float, float]:
        """(cross-entropy in nats, share of right predictions) on the data."""
        total, right, count = 0.0, 0, 0
        for inputs, targets in data.batches():
            logits = data.scored(self._logits(inputs))
            total += float(nn.functional.cross_entropy(logits, targets, reduction="sum").double())
            right += int((logits.argmax(1) == targets).sum())
            count += len(targets)
        return total / count, right / count

    def _logits(self, inputs: Tensor) -> Tensor:
        if self.runner.prepare is not None:
            inputs = self.runner.prepare(inputs)
        keywords = {"use_cache": False} if self.runner.takes_cache(self.module) else {}
        result = self.module(inputs, **keywords)
        return (result if isinstance(result, Tensor) else result.logits).float()


def line(
    model: Model,
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    data: Evaluation,
    *,
    points: int = POINTS,
    job: Job | None = None,
    text: str = "along the line",
) -> pd.DataFrame:
    """Loss and accuracy of (1 - t) A + t B for t from 0 to 1; columns as in LINE_COLUMNS.

    Nothing is trained on the way. The ends keep their own batch norms, so that they are the networks as they are."""
    import pandas as pd

    check_points(points)
    bench, rows = Blend(model), []
    first, total = (job.done, job.total) if job is not None else (0, 0)
    for place, t in enumerate(np.linspace(0, 1, points)):
        if job is not None:
            job.step(first + place, max(total, first + points), f"{text}: t = {t:.2f}")
        inside = 0 < place < points - 1
        bench.put({name: (1 - t) * a[name] + t * b[name] for name in a}, estimate=inside)
        loss, accuracy = bench.loss(data)
        rows.append({"t": float(t), "loss": loss, "accuracy": accuracy})
    frame = pd.DataFrame(rows)
    ends = frame["loss"].iloc[0], frame["loss"].iloc[-1]
    frame["barrier"] = frame["loss"] - ((1 - frame["t"]) * ends[0] + frame["t"] * ends[1])
    frame.attrs["columns"] = LINE_COLUMNS
    return frame


def check_points(points: int) -> None:
    """Refused for a line that has no inside."""
    if points < 3:
        raise Refused(f"a line of {points} points has no inside: take 3 or more; 11 and 25 are usual")


def same_function(before: float, after: float, name: str) -> None:
    """Refused where the loss of a permuted network is not that of the one it was made of: the symmetry is not its."""
    change = abs(before - after)
    if not change <= RESTING:  # NaN is refused too
        raise Refused(
            f"{name} permuted answers otherwise (loss differs by {change:.3g} nats): it does more between its layers "
            "than its tensors' names say; its permutations are not known here"
        )


def _tensors(models: Sequence[Model]) -> tuple[Symmetry, list[dict[str, np.ndarray]]]:
    """The symmetry that all models share, and their tensors. Refused, with the first difference, where they differ."""
    symmetry = symmetry_of(models[0])
    for other in models[1:]:
        theirs = symmetry_of(other)
        _compare(models[0].name, symmetry, other.name, theirs)
    size = 8 * sum(model.parameters for model in models)  # float64
    require(2 * size, f"matching {len(models)} networks in float64", "take smaller ones")
    return symmetry, [tensors_of(model) for model in models]


def _compare(name: str, one: Symmetry, other_name: str, other: Symmetry) -> None:
    for tensor in [*one.axes, *other.axes]:
        if tensor not in one.axes or tensor not in other.axes:
            lacks = other_name if tensor in one.axes else name
            raise Refused(f"{name} and {other_name} are different architectures: {lacks} has no {tensor}")
        if one.shape(tensor) != other.shape(tensor):
            raise Refused(
                f"{name} and {other_name} differ in shape: {tensor} is {list(one.shape(tensor))} and "
                f"{list(other.shape(tensor))}; only networks of one shape can be matched"
            )
    if one.axes != other.axes or one.groups != other.groups:
        raise Refused(
            f"{name} and {other_name} differ in the number of attention heads: they cannot be matched"
        )
