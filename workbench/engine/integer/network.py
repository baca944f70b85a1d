"""IntegerNetwork: a Llama from token ids to logits in integers alone.

What the codes of a point stand for is known beside the network (`points`, `unit`) and used by nothing in it: scales
have become multipliers and shifts, functions have become tables (`build`). `simulation` is the same in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .llama import check_tokens
from .ops import Linear, Norm, Point, Product, Rotary, Softmax, Sum, Table

Hear = Callable[[str, Tensor], None]  # hear(point, codes)


@dataclass(frozen=True)
class Block:
    """The operations of one block, by the point that each of them makes."""

    norm1: Norm
    q: Linear
    k: Linear
    v: Linear
    q_rot: Rotary
    k_rot: Rotary
    scores: Product
    probs: Softmax
    attn: Product
    o: Linear
    mid: Sum
    norm2: Norm
    gate: Linear
    act: Table
    up: Linear
    hidden: Product
    down: Linear
    out: Sum


@dataclass(frozen=True)
class IntegerNetwork:
    """embed int16 [vocabulary, d]; logits are int32, value = logit * `unit`."""

    embed: Tensor
    blocks: tuple[Block, ...]
    norm: Norm
    head: Linear
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    points: Mapping[str, Point]
    unit: float

    @torch.no_grad()
    def __call__(self, tokens: Tensor, hear: Hear = lambda point, codes: None) -> Tensor:
        """Token ids [windows, n] to logits int32 [windows, n, vocabulary]; `hear` gets the codes of every point."""
        tokens = check_tokens(tokens, len(self.embed), self.context)
        x = self.embed[tokens]
        hear("embed", x)
        for index, block in enumerate(self.blocks):
            x = self._block(block, x, lambda name, codes, i=index: hear(f"{i}.{name}", codes))
        x = self.norm(x)
        hear("norm", x)
        return self.head(x)

    def _block(self, block: Block, x: Tensor, hear: Hear) -> Tensor:
        def heard(name: str, codes: Tensor) -> Tensor:
            hear(name, codes)
            return codes

        h = heard("norm1", block.norm1(x))
        q, k, v = heard("q", block.q(h)), heard("k", block.k(h)), heard("v", block.v(h))
        q = heard("q_rot", block.q_rot(self._split(q, self.heads)))
        k = heard("k_rot", block.k_rot(self._split(k, self.kv_heads)))
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = heard("scores", block.scores.matrix(q, self._repeat(k).transpose(2, 3)))
        probs = heard("probs", block.probs(scores, seen))
        attn = block.attn.matrix(probs, self._repeat(self._split(v, self.kv_heads)))
        attn = heard("attn", attn.transpose(1, 2).flatten(2))
        x = heard("mid", block.mid(x, heard("o", block.o(attn))))
        h = heard("norm2", block.norm2(x))
        act = heard("act", block.act(heard("gate", block.gate(h))))
        hidden = heard("hidden", block.hidden.places(act, heard("up", block.up(h))))
        return heard("out", block.out(x, heard("down", block.down(hidden))))

    def _split(self, x: Tensor, heads: int) -> Tensor:
        """[windows, n, heads * head_dim] to [windows, heads, n, head_dim]."""
        return x.unflatten(2, (heads, self.head_dim)).transpose(1, 2)

    def _repeat(self, x: Tensor) -> Tensor:
        """Heads of k or v as often as queries share them."""
        return x.repeat_interleave(self.heads // self.kv_heads, 1)
