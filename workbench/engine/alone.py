"""Alone: the model measured with one layer changed. The blocks before that layer stay as they are, so what they hand on
is kept, and a run begins at the layer's own block: half of the work on average, and one hidden state in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..grid import Running
from ..measure import Quality
from ..model import Chain, Flow, Layer, Model

Say = Callable[[int, int], None]  # say(batches done, batches): may raise Cancelled


def judges(
    model: Model, quality: Quality, layers: Sequence[Layer]
) -> Iterator[tuple[Layer, Callable[[Running, Say], dict[str, float]]]]:
    """(layer, judge) in the order of the blocks: `judge(what runs in its place, step)` measures the model with that
    layer changed and no other, before the next one is asked for."""
    batches = quality.data.inputs_only()
    chain, wanted = Chain(model, batches[0][:1]), set(layers)
    run = model.runner.logits
    for layer in (each for each in chain.outside if each in wanted):
        yield layer, lambda new, say, la=layer: quality.judge(lambda _, inputs: run(inputs, {la: new}), say)
    last = max((i for i in range(len(chain)) if wanted & set(chain.layers[i])), default=-1)
    flows = [chain.enter(batch) for batch in batches] if last >= 0 else []
    for index in range(last + 1):
        for layer in (each for each in chain.layers[index] if each in wanted):

            def judge(new: Running, say: Say, la: Layer = layer, index: int = index) -> dict[str, float]:
                return quality.judge(lambda batch, _: _from(chain, index, flows[batch], {la: new}), say)

            yield layer, judge
        if index < last:
            with torch.no_grad():
                flows[:] = [chain.step(index, flow) for flow in flows]


@torch.no_grad()
def _from(chain: Chain, index: int, flow: Flow, changed: dict[Layer | str, Tensor | Running]) -> Tensor:
    """The network's answer for a flow that stands before block `index`."""
    for each in range(index, len(chain)):
        flow = chain.step(each, flow, changed)
    return chain.leave(flow)
