"""Chain: a network as blocks that hand one hidden state on, so that one block at a time has to be in memory.

A transformer or a residual network is a chain where the output of each block enters the next one unchanged; this is
looked at, not assumed. Any other network is one single block. What lies before the first block and after the last
(embedding, stem, head) is run with the blocks left out.

Of a network that is larger than memory only a frame is built (parameters on the meta device); a block's parameters
are read from the source when it is opened and let go afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .layer import Layer
from .model import Model
from .roles import block_prefix
from .runner import Weights, listening, replaced

UNCHANGED: Weights = MappingProxyType({})


@dataclass(frozen=True)
class Flow:
    """One batch on its way through the chain: the hidden state before a block, and what each block is given beside
    it (masks, positions)."""

    batch: Tensor
    hidden: Tensor
    given: Mapping[int, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)


class _Enough(Exception):
    """Raised inside a run when all that was wanted of it has happened."""


class Chain:
    """The blocks of a model in order. `layers[i]` are the layers inside block i, `outside` those in none."""

    def __init__(self, model: Model, probe: Tensor, frame: bool = False):
        """`probe` is one small batch to look at the network with. `frame`: one block at a time in memory."""
        self.model, self.runner = model, model.runner
        build = self.runner.frame if frame else None
        self.module: nn.Module = self.runner.module if build is None else build().eval()
        self._framed = build is not None
        self._parameters = dict(self.module.named_parameters(remove_duplicate=False))
        self._read: set[str] = set()
        self.layers: list[list[Layer]] = []
        self.outside: list[Layer] = []
        names = self._candidates()
        if self._framed:
            self._fill(self.module, "", [*names])
        self.names = names if len(names) > 1 and self._is_chain(names, probe) else [""]
        inside = {name: index for index, name in enumerate(self.names)}
        self.layers = [[] for _ in self.names]
        for layer in model.layers:
            block = inside.get(self._block_of(layer) or "") if self.names != [""] else 0
            (self.outside if block is None else self.layers[block]).append(layer)

    def __len__(self) -> int:
        return len(self.names)

    # What lies around the blocks

    @torch.no_grad()
    def enter(
        self, batch: Tensor, hear: Callable[[Layer, Tensor], None] | None = None, weights: Weights = UNCHANGED
    ) -> Flow:
        """The batch as it comes to the first block; `hear` is told of the layers before it."""
        if self.names == [""]:
            return Flow(batch, batch)
        taken: dict[int, tuple[Any, ...]] = {}
        given: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

        def pass_on(index: int, hidden: Tensor, *rest: Any, **keywords: Any) -> Any:
            taken.setdefault(index, (hidden,))
            given[index] = rest, keywords
            if index == len(self.names) - 1:
                raise _Enough
            return (hidden,) if self._tuples else hidden

        with self._bypassed(pass_on), self._heard(hear, self.outside, weights) as changed:
            self._whole(batch, changed)
        # Nothing is taken where `hear` has ended the run: who listens wants no flow.
        return Flow(batch, taken[0][0] if taken else batch, given)

    @torch.no_grad()
    def leave(
        self, flow: Flow, hear: Callable[[Layer, Tensor], None] | None = None, weights: Weights = UNCHANGED
    ) -> Tensor:
        """The network's output for a flow that has passed the last block; `hear` is told of the layers after it."""
        if self.names == [""]:
            return flow.hidden

        def pass_on(index: int, hidden: Tensor, *rest: Any, **keywords: Any) -> Any:
            out = flow.hidden if index == len(self.names) - 1 else hidden
            return (out,) if self._tuples else out

        with self._bypassed(pass_on), self._heard(hear, self.outside, weights) as changed:
            out = self._whole(flow.batch, changed)
        return flow.hidden if out is None else (out if isinstance(out, Tensor) else out.logits).float()

    # The blocks

    @contextmanager
    def opened(self, index: int) -> Iterator[None]:
        """While open, block `index` is in memory."""
        if not self._framed or self.names == [""]:
            yield
            return
        block, prefix = self.module.get_submodule(self.names[index]), self.names[index] + "."
        try:
            self._fill(block, prefix, [])
            yield
        finally:
            block.to("meta")
            self._read -= {name for name in self._read if name.startswith(prefix)}

    def run(
        self,
        index: int,
        flow: Flow,
        weights: Weights = UNCHANGED,
        hear: Callable[[Layer, Tensor], None] | None = None,
    ) -> Tensor:
        """The hidden state after block `index`, differentiable in `weights`; `hear` is told of its layers' inputs and
        may raise `Chain.Enough` to end the run."""
        with self._heard(hear, self.layers[index], weights) as changed:
            if self.names == [""]:
                out = self._whole(flow.hidden, changed)
                return flow.hidden if out is None else (out if isinstance(out, Tensor) else out.logits)
            prefix = self.names[index] + "."
            block = self.module.get_submodule(self.names[index])
            rest, keywords = flow.given.get(index, ((), {}))
            inside = {n.removeprefix(prefix): value for n, value in changed.items() if n.startswith(prefix)}
            try:
                out = torch.func.functional_call(block, inside, (flow.hidden, *rest), keywords)
            except _Enough:
                return flow.hidden
        return out[0] if isinstance(out, tuple) else out

    def step(self, index: int, flow: Flow, weights: Weights = UNCHANGED) -> Flow:
        """The flow after block `index`."""
        return replace(flow, hidden=self.run(index, flow, weights))

    Enough = _Enough

    # How the network is looked at

    def parameter_name(self, layer: Layer | str) -> str:
        return self.runner.parameter_name(layer, self._parameters)

    def _block_of(self, layer: Layer) -> str | None:
        return block_prefix(self.parameter_name(layer).removesuffix(".weight"))

    def _candidates(self) -> list[str]:
        found = {}
        for layer in self.model.layers:
            name = self._block_of(layer)
            if name is not None and layer.role != "embed":
                found.setdefault(name, layer.block)
        return sorted(found, key=lambda name: -1 if found[name] is None else found[name])

    def _is_chain(self, names: list[str], probe: Tensor) -> bool:
        """Whether each block's output enters the next one as it is. A frame has one block in memory at a time: its
        first block is run, and the others are trusted to be of its kind."""
        blocks = [self.module.get_submodule(name) for name in names]
        seen: list[tuple[int, str, Any]] = []

        def hooks(index: int, block: nn.Module) -> list[Any]:
            return [
                block.register_forward_pre_hook(
                    lambda _m, args: seen.append((index, "in", args[0] if args else None))
                ),
                block.register_forward_hook(lambda _m, _a, out: seen.append((index, "out", out))),
            ]

        if self._framed:
            self.names, self._tuples = names, False
            flow = self.enter(probe)
            with self.opened(0), torch.no_grad():
                rest, keywords = flow.given[0]
                self._tuples = isinstance(blocks[0](flow.hidden, *rest, **keywords), tuple)
            return True
        with ExitStack() as stack:
            stack.enter_context(self.runner.lock)
            for index, block in enumerate(blocks):
                for handle in hooks(index, block):
                    stack.callback(handle.remove)
            self.runner.logits(probe)
        order = [(index, kind) for index, kind, _ in seen]
        if order != [(i, kind) for i in range(len(names)) for kind in ("in", "out")]:
            return False
        self._tuples = isinstance(seen[1][2], tuple)
        outs = [value[0] if isinstance(value, tuple) else value for _, kind, value in seen if kind == "out"]
        ins = [value for _, kind, value in seen if kind == "in"]
        return all(before is after for before, after in zip(outs[:-1], ins[1:], strict=True))

    def _whole(self, batch: Tensor, changed: dict[str, Tensor]) -> Any:
        if self.runner.prepare is not None:
            batch = self.runner.prepare(batch)
        keywords = {"use_cache": False} if self.runner.takes_cache(self.module) else {}
        try:
            return torch.func.functional_call(self.module, changed, (batch,), keywords)
        except _Enough:
            return None

    @contextmanager
    def _bypassed(self, pass_on: Callable[..., Any]) -> Iterator[None]:
        """While open, the blocks do not run: `pass_on(index, hidden, ...)` answers for them."""
        with self.runner.lock, ExitStack() as stack:
            for index, name in enumerate(self.names):
                block = self.module.get_submodule(name)
                block.forward = _bound(pass_on, index)
                stack.callback(block.__dict__.pop, "forward")
            yield

    @contextmanager
    def _heard(
        self, hear: Callable[[Layer, Tensor], None] | None, layers: list[Layer], weights: Weights
    ) -> Iterator[dict[str, Tensor]]:
        inside = set(layers)
        own = {key: weight for key, weight in weights.items() if isinstance(key, str) or key in inside}
        with self.runner.lock, replaced(self.module, self.parameter_name, own) as changed:
            if hear is None:
                yield changed
            else:
                with listening(self.module, self.parameter_name, layers, hear):
                    yield changed

    @torch.no_grad()
    def _fill(self, module: nn.Module, prefix: str, but: list[str]) -> None:
        """Read the parameters of a part of the frame, float32; not those under the names in `but`."""
        source, known = self.model.source, self.model.source.tensors()
        tied: dict[int, nn.Parameter] = {}
        for name, parameter in list(module.named_parameters(remove_duplicate=False)):
            full = prefix + name
            if any(full.startswith(part + ".") for part in but) or parameter.device.type != "meta":
                continue
            if id(parameter) not in tied:
                stored = next(
                    (n for n in known if n == full or full.endswith("." + n) or n.endswith("." + full)), None
                )
                if stored is None:
                    continue  # tied to one that is read: replaced below
                value = source.read(stored).float()
                tied[id(parameter)] = nn.Parameter(value, requires_grad=False)
            _set(module, name, tied[id(parameter)])
            self._read.add(full)
        for name, parameter in list(module.named_parameters(remove_duplicate=False)):
            if id(parameter) in tied:
                _set(module, name, tied[id(parameter)])


def _set(module: nn.Module, name: str, value: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, value)


def _bound(pass_on: Callable[..., Any], index: int) -> Callable[..., Any]:
    return lambda hidden, *rest, **keywords: pass_on(index, hidden, *rest, **keywords)
