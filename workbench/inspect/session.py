"""Session: what is on the bench, without a widget. The bench is a view of it; a script can drive it as well.

It holds the model, the selected layer, the method with its parameters, and the tree of variants. Everything a
person does at the bench is a call here, and `code()` writes the Python of what is on the screen.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from ..engine import History, Plan, Recipe, Step, Variant, apply, collect, plan
from ..engine.compose import compress
from ..errors import Refused
from ..grid import CompressedWeight
from ..jobs import Cancelled, Job, Listener, heard
from ..measure import Evaluation, OutputError, Quality, error_cells, evaluation
from ..methods import METHODS, Method, Statistics, parameters_of
from ..model import Layer, Model
from . import session_file
from .comparison import MOST, Comparison
from .curves import Curve
from .error_map import ErrorMap
from .model_map import map_values
from .networks import Networks, names_in
from .outliers import Channels
from .sensitivity import Sensitivity
from .spectra import Spectra
from .tables import measured

LIVE_TOKENS = 1024  # tokens (or images) that the effect of one layer is measured on while a slider moves
STATISTICS_MOST = 2**29  # bytes of Hessians that are kept for all layers at once
LIVE_PARAMETERS = 30_000_000  # beyond this a model does not run at every move of a slider


@dataclass(frozen=True)
class Answer:
    """What is known of the selected layer under the method on the bench, stage by stage: the numbers come with
    `exact`, the effect on the model with `effect`."""

    layer: str
    method: Method
    compressed: CompressedWeight | None = None
    numbers: dict[str, float | None] = field(default_factory=dict)


class Session:
    """A model on the bench. `layer`, `method` and `selector` are set by assignment; variants by `apply`.

    `data` is what quality is measured on; by default the embedded held-out data. Where the model cannot be run
    `why_not` says so, and everything that needs no run works all the same.
    """

    def __init__(
        self,
        model: Model,
        data: Evaluation | None = None,
        layer: str | None = None,
        method: Method | None = None,
    ):
        if not model.layers:
            raise Refused(f"{model.name} has no weight matrices: nothing to put on the bench")
        self.model = model.base
        self._data = data
        self.history = History(Variant(self.model, Recipe()))
        if model.overlays:  # what was done to it already lies on the bench as the first variant
            self.history.add(Variant(self.model, Recipe(), model.overlays, vectors=model.vectors))
        self.method: Method = method or METHODS["rtn"]()
        self.selector = "*"
        self._layer = model.layer(layer).name if layer else _first_choice(model).name
        self._maps: dict[str, ErrorMap] = {}
        self._statistics: dict[str, Statistics] = {}
        self.job: Job | None = None
        self.seconds = 0.0  # that the method took on the selected layer
        self.pinned: list[Method] = []  # for comparison beside each other, the oldest first
        self.sensitivity: Sensitivity | None = None
        self.spectra: Spectra | None = None
        self.curve: type[Curve] | None = None  # the chart under the map, where there is one
        self.networks: Networks | None = None
        self._begun: Networks | None = None  # whose measuring was cancelled

    # What is selected

    @property
    def layer(self) -> Layer:
        return self.model.layer(self._layer)

    @layer.setter
    def layer(self, name: str | Layer) -> None:
        self._layer = self.model.layer(name.name if isinstance(name, Layer) else name).name

    @property
    def error_map(self) -> ErrorMap:
        """The map of the selected layer; kept for the last one, as a layer of a large model is large."""
        if self._layer not in self._maps:
            w = self.model.base_weight(self._layer)
            self._maps = {self._layer: ErrorMap(w, name=self._layer)}
        return self._maps[self._layer]

    # What the model does

    @cached_property
    def why_not(self) -> str:
        """Why the model cannot be measured, in one sentence; empty where it can."""
        try:
            _ = self.data
        except Refused as reason:
            return str(reason)
        return ""

    @property
    def data(self) -> Evaluation:
        if self._data is None:
            self._data = evaluation(self.model)
        return self._data

    @cached_property
    def quality(self) -> Quality:
        return Quality(self.model, self.data)

    @cached_property
    def _live_quality(self) -> Quality:
        few = max(1, LIVE_TOKENS // (1 if self.data.labels is not None else self.data.inputs.shape[1]))
        labels = None if self.data.labels is None else self.data.labels[:few]
        return Quality(
            self.model, Evaluation(self.data.inputs[:few], labels, self.data.what, self.data.batch)
        )

    @property
    def runs_live(self) -> bool:
        """Whether the model is small enough to be run at every move of a slider."""
        return not self.why_not and self.model.parameters <= LIVE_PARAMETERS

    def statistics(self, layer: Layer, needs: frozenset[str]) -> Statistics:
        """Statistics of a layer's input over the calibration data, collected when first needed."""
        known = self._statistics.get(layer.name)
        if known is None or any(getattr(known, need) is None for need in needs):
            batches = evaluation(self.model, part="calibration").inputs_only()
            # Of a small model all layers in one pass, so that the next one that is selected answers at once.
            layers = list(self.model.layers) if self.runs_live and self._all_fit(needs) else [layer]
            found = collect(self.model, layers, needs | {"sample"}, batches)
            self._statistics = {**self._statistics, **found}
            known = found.get(layer.name, Statistics())
        return known

    def _all_fit(self, needs: frozenset[str]) -> bool:
        """Whether the statistics of all layers at once may be held: a Hessian is [in, in]."""
        squares = len(needs & {"hessian", "cross"}) * sum(layer.shape[1] ** 2 for layer in self.model.layers)
        return 4 * squares <= STATISTICS_MOST

    # Live: the selected layer under the method

    def live(self, hear: Listener = lambda done, total, values: None) -> Iterator[Answer]:
        """Answers in order of their price: numbers of the weight, of the layer's output, of the model.

        The error map of the selected layer shows the compressed weight from the first answer on. `hear` is told of the
        steps of a long optimisation, and may raise to stop it.
        """
        layer, method, shown = self.layer, self.method, self.error_map
        verdict = method.judge(layer.shape)
        if verdict.skip:
            raise Refused(f"{layer.name}: {verdict.skip}")
        statistics = self.statistics(layer, method.needed) if method.needed else None
        started = time.perf_counter()
        with heard(hear):
            compressed = compress(shown.w, [method], statistics)
        self.seconds = time.perf_counter() - started
        shown.change(compressed, error_cells(shown.w, compressed, shown.weight))
        numbers: dict[str, float | None] = {
            **shown.errors.numbers,
            "bits_per_weight": compressed.bits_per_weight,
            "bytes": compressed.nbytes,
            "bytes_before": layer.parameters * layer.dtype.itemsize,
            "sparsity": compressed.sparsity,
        }
        yield Answer(layer.name, method, compressed, numbers)
        if not self.runs_live:
            return
        sample = self.statistics(layer, frozenset({"sample"})).sample
        if sample is not None:
            error = OutputError(shown.w, compressed.running())
            error.add(sample)
            numbers = {**numbers, "output_relative_error": error.value, **self._beside(shown.w, sample)}
            yield Answer(layer.name, method, compressed, numbers)
        effect = self._live_quality.measure({layer.name: compressed})
        base = self._live_quality.measure()
        yield Answer(
            layer.name, method, compressed, {**numbers, **effect, **{f"base_{k}": v for k, v in base.items()}}
        )

    def _beside(self, w: Tensor, sample: Tensor) -> dict[str, float | None]:
        """The output error of the plain method that the one on the bench has to beat."""
        plain = self.method.baseline
        if plain is None:
            return {"baseline_output_error": None}
        error = OutputError(w, plain.compress(w).running())
        error.add(sample)
        return {"baseline_output_error": error.value}

    # Beside each other

    def pin(self) -> None:
        """Put the method on the bench into the comparison; the oldest leaves where four are there already."""
        self.pinned = [*(m for m in self.pinned if m != self.method), self.method][-MOST:]

    def compare(self) -> Comparison | None:
        """The pinned methods on the selected layer; None while there are fewer than two."""
        methods, layer = self.pinned, self.layer
        if len(methods) < 2:
            return None
        for method in methods:
            if skip := method.judge(layer.shape).skip:
                raise Refused(f"{layer.name}: {skip}")
        needs = frozenset[str]().union(*(m.needed for m in methods))
        statistics = None if self.why_not else self.statistics(layer, needs)
        return Comparison(self.error_map.w, methods, statistics, layer.name)

    def channels(self) -> Channels:
        """How loud the input channels of the selected layer are, before and after the input scale of the method on
        the bench, where it has made one (of this layer alone). Refused where the model cannot be run."""
        if self.why_not:
            raise Refused(f"how loud inputs are is measured by running the model: {self.why_not}")
        shown = self.error_map
        known = self.statistics(self.layer, frozenset({"max_abs"})).max_abs
        if known is None:
            raise Refused(f"nothing enters {self._layer} over the calibration data")
        return Channels.of(shown.w, known, shown.compressed.input_scale, self._layer)

    def measure_sensitivity(self) -> Job:
        """Each layer alone under the method on the bench, at 2, 3, 4 and 8 bits where it has bits; in a job."""
        if self.why_not:
            raise Refused(self.why_not)
        alternatives = [self.method.with_(bits=b) for b in (2, 3, 4, 8)] if self._has_bits else [self.method]
        batches = evaluation(self.model, part="calibration").inputs_only() if self.method.needed else None

        def work(job: Job) -> Sensitivity:
            self.sensitivity = Sensitivity(
                self.model,
                alternatives,
                self._live_quality,
                layers=self.selector,
                calibration=batches,
                job=job,
            )
            return self.sensitivity

        return Job(work, "sensitivity").start()

    def measure_spectra(self, *, extra: Sequence[str] = (), heads: bool = False, conv: str = "slices") -> Job:
        """The spectra of the layers that the selector names, of the variant on the bench and the model before it, in a
        job; `extra`, `heads` and `conv` as for `Spectra`. What is known when it is cancelled stays in `spectra`."""
        variant, selector = self.history.variant, self.selector

        def work(job: Job) -> Spectra:
            subject = variant if variant.weights else self.model
            found = self.spectra = Spectra(
                subject, selector, extra=tuple(extra), heads=heads, conv=conv, begin=False
            )
            return found.measure(job)

        return Job(work, "spectra").start()

    def measure_networks(self, others: str) -> Job:
        """The unchanged network beside others of its architecture, in a job: names or paths, separated by commas or
        line ends. `networks` is set at the end; what a cancelled job has finished is taken up again by the next."""
        names = names_in(others)

        def work(job: Job) -> Networks:
            if self.why_not:
                raise Refused(f"two networks are compared by running them: {self.why_not}")
            found, self._begun = self._begun, None
            last = self.networks
            if found is None and last is not None and last.merged is not None and not last.merged.computed:
                found = last  # whose mean was cancelled
            if found is None or found.names != names:
                found = Networks.opened(self.model, names, self.data, job)
            try:
                found.pair.measure(job)
            except Cancelled:
                self._begun = found
                raise
            self.networks = found
            return found

        return Job(work, "networks").start()

    def merge_networks(self) -> Job:
        """The mean of the networks that were compared last, in a job. Refused where there are not three or more."""
        if self.networks is None or self.networks.merged is None:
            raise Refused("nothing to merge: name two other networks or more, and compare them first")
        return Job(self.networks.merged.compute, "merge").start()

    @property
    def _has_bits(self) -> bool:
        fields = {parameter.name: parameter for parameter in parameters_of(type(self.method))}
        return (
            "bits" in fields
            and fields["bits"].type == "int"
            and getattr(self.method, "format", "int") == "int"
        )

    def map_values(self, measure: str) -> Iterator[dict[str, float | None]]:
        """Values of all layers for the model map, growing as they become known; `measure` one of MAP_MEASURES."""
        return map_values(self, measure)

    # The model: apply and history

    @property
    def recipe(self) -> Recipe:
        """What Apply would make: the active variant's recipe, then the method on the selected layers. Steps that
        the new one replaces entirely are dropped."""
        step = Step(self.method, self.selector)
        kept = [
            old
            for old in self.history.variant.recipe
            if not (old.layers == step.layers and old.method.kind == step.method.kind)
        ]
        return Recipe([*kept, step])

    def plan(self) -> Plan:
        return plan(self.model, self.recipe)

    def apply(self, recipe: Recipe | None = None) -> Job:
        """Apply a recipe (by default the bench's own) and measure, in a job that is started; the variant is added at
        end (a partial one after Cancel).

        Raises Refused at once where nothing can be done.
        """
        if self.job is not None and self.job.state == "running":
            raise Refused("an apply is running: cancel it first, or wait for its end")
        recipe = self.recipe if recipe is None else recipe
        active, parent = self.history.variant, self.history.active
        batches = self.calibration(recipe)

        def work(job: Job) -> Variant:
            made = apply(self.model, recipe, calibration=batches, job=job, resume=active)
            if not made.partial and not self.why_not:
                try:
                    made = measured(
                        made,
                        self.quality,
                        lambda done, total: job.step(done, total, f"measuring {done} of {total}"),
                    )
                except Cancelled:
                    job.text = "applied, not measured"
                except Refused as reason:  # the changed weights are worth keeping all the same
                    job.text = f"applied, not measured: {reason}"
            if made.weights or made.recipe.steps == ():
                self.history.add(made, parent)
            return made

        self.job = Job(work, "apply")
        return self.job.start()

    def calibration(self, recipe: Recipe) -> list[Tensor] | None:
        """Calibration inputs where a recipe needs them."""
        planned = plan(self.model, recipe)
        if not planned.needs and not planned.by_block:
            return None
        return evaluation(self.model, part="calibration").inputs_only()

    def measure_base(self) -> None:
        """Fill in the measures of the unchanged model."""
        base = self.history.nodes[0].variant
        if not base.measures and not self.why_not:
            self.history.replace(0, measured(base, self.quality))

    # Out of the bench

    def code(self) -> str:
        """The Python of what is on the screen: load, the layer under the method, its curve, the active variant, its
        measures, the spectra of all layers, the networks beside it."""
        return session_file.code(self)

    def save(self, path: str | os.PathLike = "session.json") -> Path:
        """Write what is needed to come back after the kernel has ended: model, layer, method, selector, and the
        tree of variants as recipes."""
        return session_file.save(self, Path(path))

    @classmethod
    def resume(cls, path: str | os.PathLike = "session.json") -> Session:
        """The session that `save` wrote; its variants are applied again (in the order they were made)."""
        return session_file.resume(cls, Path(path))


def _first_choice(model: Model) -> Layer:
    """What to put on the bench first: a feed-forward matrix in the middle of the network."""
    blocks = [layer.block for layer in model.layers if layer.block is not None]
    middle = sorted(blocks)[len(blocks) // 2] if blocks else None
    inside = [layer for layer in model.layers if layer.block == middle]
    return next((layer for layer in inside if layer.role == "down"), inside[0] if inside else model.layers[0])
