"""The walk: a model block by block, each calibrated on what the compressed blocks before it hand on.

For every block: run it and listen to its layers; compress those that read the first input (q, k, v); run it again with
them in place and listen to the next (o), and so on; then hand the hidden states on. What is in memory is one block,
its statistics, and the hidden states of the calibration data. The only code that iterates over a model and its data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight, Report, Running
from ..jobs import Job, available, heard, trim
from ..methods import Method, Span, Statistics, Transform, storable
from ..model import Chain, Flow, Layer, Model, Weights
from .compose import Work, compared, compress, ordered
from .statistics import Gathering

EXPERT = re.compile(r"experts?\.\d+")
Prefix = Literal["compressed", "original"]
Hear = Callable[[Layer, Tensor], None]
Listen = Callable[..., None]  # listen(hear, few=False): run the part, or its first batch alone


@dataclass
class Walk:
    """One walk over `model` with `work` (methods by layer). `batches` are the calibration inputs.

    `prefix`: whether a block is calibrated on the compressed blocks' outputs or on the original ones'. `done` are
    layers that an earlier run has finished: they are used as they are. `frame`: only one block at a time in memory.
    """

    model: Model
    work: Mapping[str, Sequence[Method]]
    batches: Sequence[Tensor]
    prefix: Prefix = "compressed"
    done: Mapping[str, CompressedWeight] = field(default_factory=dict)
    frame: bool = False
    job: Job | None = None
    unheard: list[str] = field(default_factory=list)  # layers that no calibration input reached

    def run(self) -> Iterator[tuple[str, CompressedWeight]]:
        """(layer, compressed weight) in the order of the network."""
        self.running: dict[Layer | str, Tensor | Running] = dict(self._overlaid)
        with torch.no_grad():
            chain = Chain(self.model, self.batches[0][:1], frame=self.frame)
            early: set[Layer] = set()
            chain.enter(self.batches[0][:1], lambda layer, _x: early.add(layer))
            before = [layer for layer in chain.outside if layer in early]
            after = [layer for layer in chain.outside if layer not in early]
            yield from self._part(before, partial(self._enter, chain))
            self.flows = [chain.enter(batch, weights=self.running) for batch in self.batches]
            every = [method for methods in self.work.values() for method in methods]
            both = any(method.works_on == "block" or "cross" in method.needed for method in every)
            self.originals = list(self.flows) if both else []
            # Nothing is handed on behind the last block that has work to do.
            ahead = self._works(after)
            busy = [index for index, layers in enumerate(chain.layers) if self._works(layers)]
            stop = len(chain) if ahead else max(busy, default=-1) + 1
            for index in range(stop):
                with chain.opened(index):
                    yield from self._block(chain, index, going_on=index < stop - 1 or ahead)
                if self.frame:
                    trim()
            yield from self._part(after, partial(self._leave, chain))

    def _block(self, chain: Chain, index: int, going_on: bool) -> Iterator[tuple[str, CompressedWeight]]:
        layers = chain.layers[index]
        whole = [layer for layer in layers if any(m.works_on == "block" for m in self._todo(layer))]

        def listen(hear: Hear, few: bool = False, before: Hear | None = None) -> None:
            for done, flow in enumerate(self.flows[:1] if few else self.flows):
                self._say(
                    f"{chain.names[index] or self.model.name}: calibrating, {done} of {len(self.flows)} batches"
                )
                if before is not None and self.originals:
                    chain.run(index, self.originals[done], self._overlaid, before)
                chain.run(index, flow, self._passing, hear)

        if whole:
            yield from self._rebuilt(chain, index, whole, listen)
        yield from self._part([layer for layer in layers if layer not in whole], listen)
        if going_on:
            self.flows = [chain.step(index, flow, self._passing) for flow in self.flows]
            if self.originals:
                self.originals = [chain.step(index, flow, self._overlaid) for flow in self.originals]
        for layer in layers:  # the data has passed: their matrices need not stay
            if layer.name in self.work:
                self.running.pop(layer, None)  # an expert that saw no token has none

    def _part(self, layers: Sequence[Layer], listen: Listen) -> Iterator[tuple[str, CompressedWeight]]:
        """Layers that run one after another, stage by stage: those that read the same input together."""
        for layer in layers:
            if layer.name in self.done:
                self._put(layer, self.done[layer.name])
                yield layer.name, self.done[layer.name]
        todo = [layer for layer in layers if self._todo(layer)]
        hearing = [layer for layer in todo if any(m.needed for m in self._todo(layer))]
        if hearing:  # finished ones lend their weights to the search for scales that a group shares
            hearing += [layer for layer in layers if layer.name in self.done and self._scaling(layer)]
        for layer in todo:
            if layer not in hearing:
                yield self._compressed(layer, Statistics(), {})
        for stage in self._stages(hearing, listen):
            if not any(self._todo(layer) for layer in stage):
                continue
            gathering = Gathering(self._needs(stage))
            last = stage[-1] if len({layer.role for layer in stage}) == len(stage) else None
            if "cross" in gathering.needs:
                listen(_only(gathering, stage, last), before=_remember(gathering, stage, last))
            else:
                listen(_only(gathering, stage, last))
            for group in gathering.groups:
                shared = self._shared_scales(group, gathering.found)
                for layer in filter(self._todo, group):
                    yield self._compressed(layer, gathering.found[layer.name], shared)
            self.unheard += [layer.name for layer in stage if layer.name not in gathering.found]

    def _stages(self, layers: Sequence[Layer], listen: Listen) -> list[list[Layer]]:
        """Layers in the order in which they run, those that read one input together; and the experts of a mixture, of
        which each reads tokens of its own, as one."""
        if not layers:
            return []
        order = Gathering(())
        listen(_only(order, layers), few=True)
        stages: dict[str, list[Layer]] = {}
        for group in order.groups:
            stages.setdefault(EXPERT.sub("experts", group[0].name), []).extend(group)
        place = {EXPERT.sub("experts", layer.name): stage for stage in stages.values() for layer in stage}
        for layer in layers:
            # Where nothing of the first batch reached it, an expert of the same place says when it runs.
            if layer.name not in order.found:
                name = EXPERT.sub("experts", layer.name)
                place.get(name, stages.setdefault(name, [])).append(layer)
        return [stage for stage in stages.values() if stage]

    def _rebuilt(
        self,
        chain: Chain,
        index: int,
        layers: Sequence[Layer],
        listen: Listen,
    ) -> Iterator[tuple[str, CompressedWeight]]:
        """Layers of a block whose methods work on the block as a whole: those of one method together, the methods in
        the order of their layers, each with the results of those before it in place."""
        for method in dict.fromkeys(
            m for layer in layers for m in self._todo(layer) if m.works_on == "block"
        ):
            own = [layer for layer in layers if method in self._todo(layer)]
            yield from self._rebuilt_by(method, chain, index, own, listen)

    def _rebuilt_by(
        self, method: Method, chain: Chain, index: int, layers: Sequence[Layer], listen: Listen
    ) -> Iterator[tuple[str, CompressedWeight]]:
        gathering = Gathering(self._needs(layers) | {"sample"})
        listen(_only(gathering, layers))
        jobs: dict[Layer, Work] = {}
        for group in gathering.groups:
            shared = self._shared_scales(group, gathering.found)
            for layer in group:
                jobs[layer] = self._begun(layer, method, gathering.found[layer.name], shared)
                leader, scale = jobs[group[0]], jobs[layer].scale
                if scale is not None and leader.scale is not None and torch.equal(scale, leader.scale):
                    # Some methods tell by their statistics which layers read one input.
                    jobs[layer].statistics = leader.statistics
        by_name = {layer.name: (layer, work.scale) for layer, work in jobs.items()}
        targets = [chain.run(index, flow, self._overlaid) for flow in self.originals]

        def run(flow: Flow, changed: Mapping[str, Tensor | Running]) -> Tensor:
            inside = {by_name[n][0]: _undivided(v, by_name[n][1]) for n, v in changed.items()}
            return chain.run(index, flow, {**self.running, **inside})

        label = chain.names[index] or self.model.name
        weights = {layer.name: work.current for layer, work in jobs.items()}
        known = {layer.name: work.known for layer, work in jobs.items()}
        with heard(self._listener(label)), torch.enable_grad():
            made = method.rebuild(Span(weights, known, self.flows, targets, run))
        for layer, work in jobs.items():
            methods = ordered(self._todo(layer))
            work.join(method, made[layer.name])
            for later in methods[methods.index(method) + 1 :]:
                work.add(later)
            yield self._finished(layer, work.ended, self._weight(layer), gathering.found[layer.name])

    def _begun(
        self,
        layer: Layer,
        method: Method,
        statistics: Statistics,
        scales: Mapping[str, tuple[Tensor, Report]],
    ) -> Work:
        """A layer before its block is rebuilt: transforms and what comes before `method` have been done."""
        methods = ordered(self._todo(layer))
        work = Work.begun(self._weight(layer), methods, statistics, scales)
        for earlier in methods[: methods.index(method)]:
            work.add(earlier)
        return work

    # One layer

    def _compressed(
        self, layer: Layer, statistics: Statistics, scales: Mapping[str, tuple[Tensor, Report]]
    ) -> tuple[str, CompressedWeight]:
        self._say(layer.name)
        w = self._weight(layer)
        methods = self._todo(layer)
        check_rank(layer, methods, statistics.tokens)
        with heard(self._listener(layer.name)):
            made = compress(w, methods, statistics, scales)
        return self._finished(layer, made, w, statistics)

    def _finished(
        self, layer: Layer, made: CompressedWeight, w: Tensor, statistics: Statistics
    ) -> tuple[str, CompressedWeight]:
        made = made.with_report(compared(w, made, self._todo(layer), statistics))
        self._put(layer, made)
        return layer.name, made

    def _put(self, layer: Layer, made: CompressedWeight) -> None:
        self.running[layer] = made.running()

    def _weight(self, layer: Layer) -> Tensor:
        return self.model.weight(layer.name)

    def _works(self, layers: Sequence[Layer]) -> bool:
        return any(layer.name in self.work for layer in layers)

    def _todo(self, layer: Layer) -> Sequence[Method]:
        return () if layer.name in self.done else self.work.get(layer.name, ())

    def _scaling(self, layer: Layer) -> list[Transform]:
        """Its transforms, also of a layer that is done."""
        return [method for method in self.work.get(layer.name, ()) if isinstance(method, Transform)]

    def _needs(self, layers: Sequence[Layer]) -> frozenset[str]:
        """With a sample, on which every layer is compared with its plain method."""
        return frozenset({"sample"}.union(*(m.needed for layer in layers for m in self._todo(layer))))

    def _shared_scales(
        self, group: Sequence[Layer], found: Mapping[str, Statistics]
    ) -> dict[str, tuple[Tensor, Report]]:
        """Scales of the transforms that every layer of a group has: one for all, found on all their weights."""
        common = [m for m in self._scaling(group[0]) if all(m in self._scaling(layer) for layer in group)]
        shared: dict[str, tuple[Tensor, Report]] = {}
        weights = [self._weight(layer) for layer in group]
        statistics = found[group[0].name]
        for transform in common:
            if len(group) > 1:
                with heard(self._listener(group[0].name)):
                    s, report = transform.search(weights, transform.given(statistics))
                s = storable(s)
                shared[transform.name] = s, report
                weights, statistics = [w * s for w in weights], statistics.scaled(s)
        return shared

    @property
    def _passing(self) -> Weights:
        """The weights that calibration data passes through."""
        return self.running if self.prefix == "compressed" else self._overlaid

    @cached_property
    def _overlaid(self) -> Weights:
        """The weights of the model as it came."""
        return self.model.running

    # Progress

    def _say(self, text: str) -> None:
        if self.job is not None:
            self.job.step(self.job.done, self.job.total, text)

    def _listener(self, layer: str) -> Callable[[int, int, Mapping[str, float]], None]:
        def listen(done: int, total: int, values: Mapping[str, float]) -> None:
            if self.job is not None:
                self.job.beat(f"{layer}: step {done} of {total}", values)

        return listen

    def _enter(self, chain: Chain, hear: Hear, few: bool = False, before: Hear | None = None) -> None:
        for batch in self.batches[:1] if few else self.batches:
            if before is not None:
                chain.enter(batch, before, self._overlaid)
            chain.enter(batch, hear, self._passing)

    def _leave(self, chain: Chain, hear: Hear, few: bool = False, before: Hear | None = None) -> None:
        for done, flow in enumerate(self.flows[:1] if few else self.flows):
            if before is not None:
                chain.leave(self.originals[done], before, self._overlaid)
            chain.leave(flow, hear, self._passing)


def too_large(model: Model) -> bool:
    """Whether the network in float32 would take more than half of the free memory: then it is walked in a frame."""
    if model.task is None or model.runner.frame is None or model.runner.built:
        return False
    return 4 * sum(info.numel for info in model.source.tensors().values()) > available() // 2


def _only(gathering: Gathering, layers: Sequence[Layer], last: Layer | None = None) -> Hear:
    """Hear these layers only; after `last` nothing of the run is wanted."""
    wanted = set(layers)

    def hear(layer: Layer, x: Tensor) -> None:
        if layer in wanted:
            gathering.hear(layer, x)
            if layer == last:
                raise Chain.Enough

    return hear


def _remember(gathering: Gathering, layers: Sequence[Layer], last: Layer | None) -> Hear:
    """Keep the inputs of these layers in the unchanged network until the compressed one has run on the same batch."""
    wanted = set(layers)

    def hear(layer: Layer, x: Tensor) -> None:
        if layer in wanted:
            gathering.original[layer.name] = x
            if layer == last:
                raise Chain.Enough

    return hear


def check_rank(layer: Layer, methods: Sequence[Method], rows: int) -> None:
    """Refuse a Hessian of fewer rows than the layer has inputs: it cannot have full rank. An expert that few tokens
    reach does not end the walk: what factorises its Hessian damps it, and warns."""
    if EXPERT.search(layer.name):
        return
    if rows and any("hessian" in m.needed for m in methods) and rows < layer.shape[1]:
        raise Refused(
            f"{layer.name}: the calibration data has {rows} rows, too few for the Hessian of "
            f"{layer.shape[1]} inputs: give at least {layer.shape[1]} tokens"
        )


def _undivided(weight: Tensor | Running, s: Tensor | None) -> Running:
    """What runs for the input x in the place of a matrix [out, in] that was made for x / s."""
    running = weight if isinstance(weight, Running) else Running(weight)
    if s is None:
        return running
    inputs = running.inputs
    return replace(running, matrix=running.matrix / s, inputs=inputs and (lambda x: inputs(x / s) * s))


def spread(batches: Sequence[Tensor], windows: int) -> list[Tensor]:
    """At most `windows` windows of the calibration data, spread over all of it."""
    rows = torch.cat(list(batches))
    picked = rows[torch.linspace(0, len(rows) - 1, min(windows, len(rows))).long()]
    return list(picked.split(max(1, len(batches[0]))))
