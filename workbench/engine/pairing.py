"""Pairing: which pairs a network has, looked for in a run and believed only when a test holds.

Candidates come from one run (a module whose output is the very tensor that the layers read) and from roles (up before
down, v before o, what ran just before). None is believed: s is drawn at random, applied to both sides, and the
network's output has to stay. So what does not commute (GELU, rotary positions, a second reader) is left out without a
list of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import Refused
from ..model import Layer, Model
from ..model.roles import block_prefix
from .pairs import Floats, Pair, Pairs, relative

TOLERANCE = 1e-4  # of the output's norm: what rounding alone moves is a hundred times less
AT_ONCE = 64_000_000  # weights that are scaled for one test run


def probe(model: Model) -> Tensor:
    """A small batch to run a model on where nobody gave one. Refused where nothing tells what it takes."""
    if model.runner.task == "language":
        embedding = next((layer for layer in model.layers if layer.role == "embed"), None)
        return (torch.arange(32) % (embedding.shape[0] if embedding else 32))[None]
    from ..measure import evaluation

    if model.runner.prepare is None:  # not one of the embedded networks, which know how their images come
        raise Refused(f"nothing tells what inputs {model.name} takes: give a batch of them (calibration)")
    return evaluation(model, part="calibration").inputs[:2]


def pairs(model: Model, batch: Tensor | None = None) -> Pairs:
    """The pairs of a model's base that hold in a run on `batch`. Refused where it cannot be run."""
    base = model.base
    batch = probe(base) if batch is None else batch
    run = _Run(base, batch)
    alternatives = {group[0].name: list(_before(base, run, group)) for group in run.groups}
    reasons = {
        layer.name: "nothing that a scale could be folded into makes its input"
        for group in run.groups
        if not alternatives[group[0].name]
        for layer in group
    }
    found: dict[str, Pair] = {}
    while any(alternatives.values()):
        tried = {name: options.pop(0) for name, options in alternatives.items() if options}
        held = _holding(base, batch, list(tried.values()))
        for name, pair in tried.items():
            if pair in held:
                found[name] = pair
                alternatives[name] = []
            elif not alternatives[name]:
                for layer in pair.consumers:
                    reasons[layer.name] = "what lies before it (GELU, say) does not commute with a scale"
    return Pairs(tuple(found[group[0].name] for group in run.groups if group[0].name in found), reasons)


class _Run:
    """What one run tells: which layers read one tensor, which module made it, and what ran before."""

    def __init__(self, model: Model, batch: Tensor):
        runner = model.runner
        module = runner.module
        self.layers: dict[str, Layer] = {}
        for layer in model.layers:
            owner = runner.parameter_name(layer).rpartition(".")[0]
            if layer.role != "embed" and owner and not isinstance(module.get_submodule(owner), nn.Embedding):
                self.layers.setdefault(owner, layer)
        self.modules = dict(module.named_modules())
        self.vectors: dict[str, str] = {}  # parameter -> tensor of the checkpoint
        for name, info in model.source.tensors().items():
            if len(info.shape) == 1:
                try:
                    self.vectors[runner.parameter_name(name)] = name
                except Refused:
                    continue  # a buffer
        self.made_by: dict[int, str] = {}
        self.before: dict[str, str] = {}  # module -> norm or layer that ran last before it
        self.read: dict[str, Tensor] = {}
        self._alive: list[Tensor] = []  # so that no two tensors have one id
        self._last = ""
        self._listen(model, batch)
        groups: dict[int, list[str]] = {}
        for name, x in self.read.items():
            if name in self.layers:
                groups.setdefault(id(x), []).append(name)
        self.groups = [tuple(self.layers[name] for name in names) for names in groups.values()]
        self.names = {layer.name: name for name, layer in self.layers.items()}

    def is_norm(self, name: str) -> bool:
        return name in self.modules and name not in self.layers and self.gain(name).ndim == 1

    def gain(self, name: str) -> Tensor:
        """What a norm multiplies by [channels]; an empty matrix where there is no such thing."""
        found = getattr(self.modules[name], "weight", None)
        return found if isinstance(found, Tensor) else torch.empty(0, 0)

    def _listen(self, model: Model, batch: Tensor) -> None:
        def enter(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, inputs: tuple) -> None:
                if inputs and isinstance(inputs[0], Tensor) and name not in self.read:
                    self._alive.append(inputs[0])
                    self.read[name], self.before[name] = inputs[0], self._last

            return hook

        def leave(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: tuple, out: object) -> None:
                if isinstance(out, Tensor):
                    self._alive.append(out)
                    self.made_by.setdefault(id(out), name)
                if name in self.layers or self.is_norm(name):
                    self._last = name

            return hook

        handles = []
        with model.runner.lock:
            for name, module in self.modules.items():
                if not any(module.children()):
                    handles.append(module.register_forward_pre_hook(enter(name)))
                    handles.append(module.register_forward_hook(leave(name)))
            try:
                model.runner.logits(batch)
            finally:
                for handle in handles:
                    handle.remove()


def _before(model: Model, run: _Run, group: tuple[Layer, ...]) -> Iterator[Pair]:
    """What may make the input of a group, most likely first."""
    first = run.names[group[0].name]
    maker = run.made_by.get(id(run.read[first]), "")
    if (
        run.is_norm(maker) or maker in run.layers
    ):  # else an activation that is a module, or none that is known
        yield from _from(model, run, group, maker)
        return
    by_role = {"down": ("up",), "o": ("v", "qkv")}.get(group[0].role, ())
    named = [each for each in model.layers if each.role in by_role and each.block == group[0].block]
    for source in named:
        if source.name in run.names:
            yield from _from(model, run, group, run.names[source.name])
    last = run.before[first]
    if not named and last and block_prefix(last) == block_prefix(first):
        yield from _from(model, run, group, last)


def _from(model: Model, run: _Run, group: tuple[Layer, ...], maker: str) -> Iterator[Pair]:
    """The group fed by a module: a norm (its gain, or 1 + its gain), or a layer (all rows, or a fused one's last)."""
    columns = group[0].shape[1]
    if run.is_norm(maker):
        count = run.gain(maker).numel()
        vectors = [run.vectors.get(f"{maker}.{part}") for part in ("weight", "bias")]
        if columns % count or vectors[0] is None:
            return
        behind = run.layers.get(run.made_by.get(id(run.read[maker]), ""))
        channels = torch.arange(columns) // (columns // count)
        pair = Pair(
            group, channels, None, slice(0, count), tuple(v for v in vectors if v), 0.0, maker, behind
        )
        yield pair
        if len(pair.vectors) == 1:
            yield replace(pair, offset=1.0)  # RMSNorm that multiplies by 1 + weight
    elif maker in run.layers:
        source = run.layers[maker]
        bias = run.vectors.get(f"{maker}.bias")
        for count, channels in _channels(model, source, columns):
            rows = slice(source.shape[0] - count, source.shape[0])
            yield Pair(group, channels, source, rows, (bias,) if bias else ())


def _channels(model: Model, source: Layer, columns: int) -> Iterator[tuple[int, Tensor]]:
    """(how many of the last rows of the source, which of them each column reads)."""
    out = source.shape[0]
    heads = int(model.config.get("num_attention_heads") or 0)
    shared = int(model.config.get("num_key_value_heads") or heads)
    width = int(model.config.get("head_dim") or (columns // heads if heads else 0))
    grouped = source.role in ("v", "qkv") and 0 < shared < heads and columns == heads * width
    if grouped and shared * width <= out:  # each key-value head is read by several query heads
        head = torch.arange(heads) // (heads // shared)
        yield shared * width, (head[:, None] * width + torch.arange(width)).flatten()
    elif columns <= out:  # the last rows of a fused layer: v of q, k, v; up of gate, up
        yield columns, torch.arange(columns)
    elif columns % out == 0:  # a kernel, or positions that were flattened
        yield out, torch.arange(columns) // (columns // out)


def _holding(model: Model, batch: Tensor, candidates: Iterable[Pair]) -> list[Pair]:
    """The candidates under which the output stays, tested many at a time."""
    expected = model.runner.logits(batch)
    generator = torch.Generator().manual_seed(0)

    def holds(some: list[Pair]) -> bool:
        floats = Floats(model)
        for pair in some:
            floats.move(pair, torch.rand(pair.count, generator=generator) * 1.5 + 0.5)
        return relative(model.runner.logits(batch, floats.running), expected) <= TOLERANCE

    def sift(some: list[Pair]) -> list[Pair]:
        if not some or holds(some):
            return some
        middle = len(some) // 2
        return [] if middle == 0 else sift(some[:middle]) + sift(some[middle:])

    held: list[Pair] = []
    for part in _portions(candidates):
        held += sift(part)
    return held


def _portions(candidates: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Candidates of one kind together (those that fail are mostly of one kind), not too many weights at a time."""
    kinds: dict[tuple, list[Pair]] = {}
    for pair in candidates:
        kinds.setdefault((pair.source and pair.source.role, pair.consumers[0].role), []).append(pair)
    for some in kinds.values():
        part, size = [], 0
        for pair in some:
            part.append(pair)
            size += sum(
                layer.parameters for layer in (*pair.consumers, *([pair.source] if pair.source else []))
            )
            if size > AT_ONCE:
                yield part
                part, size = [], 0
        if part:
            yield part
