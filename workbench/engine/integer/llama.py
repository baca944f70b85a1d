"""Llama: what is read of a network of that family, and its float pass with a name for every point that is quantized.

The module of the model is read and never changed. Points: embed; in block i the two norms, q, k, v, the rotated q and
k, scores, probs, attn (what o reads), o, mid (the stream behind attention), norm2, gate, act (SiLU of it), up, hidden
(what down reads), down, out (the stream behind the block); then norm. The names of weights are those of their outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import Refused
from ...model import Model
from ..walk import too_large

STREAM = ("embed", "mid", "out")  # points of the residual stream
LINEAR = ("q", "k", "v", "o", "gate", "up", "down")
INSIDE = (
    "norm1", "q", "k", "v", "q_rot", "k_rot", "scores", "probs", "attn", "o", "mid",
    "norm2", "gate", "act", "up", "hidden", "down", "out",
)  # fmt: skip
At = Callable[[str, Tensor], Tensor]  # at(point, x): what is handed on in place of x


@dataclass(frozen=True)
class Llama:
    """`tensors` by name, float32: embed and head [vocabulary, d], norm [d], and `{i}.{q, ..., norm2}` of each block.

    cos, sin [context, head_dim] are the tables of the rotary embedding."""

    tensors: Mapping[str, Tensor]
    blocks: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    cos: Tensor
    sin: Tensor

    @property
    def points(self) -> list[str]:
        """Every point in order."""
        return ["embed", *(f"{i}.{point}" for i in range(self.blocks) for point in INSIDE), "norm"]

    @property
    def multi_head(self) -> bool:
        """Whether q, k and v have equal shapes (no grouped queries)."""
        return self.heads == self.kv_heads

    @property
    def context(self) -> int:
        return len(self.cos)

    def check(self, tokens: Tensor) -> Tensor:
        """Token ids [windows, n] int64. Refused where they do not fit."""
        return check_tokens(tokens, len(self.tensors["embed"]), self.context)

    @classmethod
    def read(cls, model: Model) -> Llama:
        """The network of a model, float32 copies. Refused where it is none of this family, or not as it came."""
        if model.overlays or model.vectors:
            raise Refused(
                f"{model.name} has changed weights: integers are learned from the float model, take model.base"
            )
        module, config = _module(model)
        with torch.no_grad():
            positions = torch.arange(int(config.max_position_embeddings))[None]
            cos, sin = module.model.rotary_emb(torch.zeros(1, 1), positions)
            return cls(
                _tensors(module), len(module.model.layers), config.num_attention_heads, config.num_key_value_heads,
                module.model.layers[0].self_attn.head_dim, float(config.rms_norm_eps), cos[0].double(), sin[0].double(),
            )  # fmt: skip

    def hidden(self, tensors: Mapping[str, Tensor], tokens: Tensor, at: At) -> Tensor:
        """The stream behind the last block [windows, n, d], before the final norm; differentiable in `tensors`."""
        x = at("embed", tensors["embed"][tokens])
        for i in range(self.blocks):
            x = self._block(i, {name: tensors[f"{i}.{name}"] for name in (*LINEAR, "norm1", "norm2")}, x, at)
        return x

    def logits(self, tensors: Mapping[str, Tensor], x: Tensor, at: At) -> Tensor:
        """Logits [windows, n, vocabulary] of the last stream."""
        return at("norm", rms_norm(x, tensors["norm"], self.eps)) @ tensors["head"].T

    def _block(self, i: int, w: Mapping[str, Tensor], x: Tensor, at: At) -> Tensor:
        h = at(f"{i}.norm1", rms_norm(x, w["norm1"], self.eps))
        q, k, v = (at(f"{i}.{name}", h @ w[name].T) for name in "qkv")
        q, k, v = self.split(q, self.heads), self.split(k, self.kv_heads), self.split(v, self.kv_heads)
        n = x.shape[1]
        cos, sin = self.cos[:n].to(x.dtype), self.sin[:n].to(x.dtype)
        q, k = (at(f"{i}.{name}_rot", y * cos + rotated(y) * sin) for name, y in (("q", q), ("k", k)))
        seen = torch.ones(n, n, dtype=torch.bool).tril()
        scores = (q @ self.repeat(k).transpose(2, 3)) * self.head_dim**-0.5
        # The future is never looked at: it must not widen the range either.
        scores = at(f"{i}.scores", scores.masked_fill(~seen, 0.0)).masked_fill(~seen, -torch.inf)
        attn = at(f"{i}.probs", scores.softmax(-1)) @ self.repeat(v)
        attn = at(f"{i}.attn", attn.transpose(1, 2).flatten(2))
        x = at(f"{i}.mid", x + at(f"{i}.o", attn @ w["o"].T))
        h = at(f"{i}.norm2", rms_norm(x, w["norm2"], self.eps))
        act = at(f"{i}.act", nn.functional.silu(at(f"{i}.gate", h @ w["gate"].T)))
        hidden = at(f"{i}.hidden", act * at(f"{i}.up", h @ w["up"].T))
        return at(f"{i}.out", x + at(f"{i}.down", hidden @ w["down"].T))

    def split(self, x: Tensor, heads: int) -> Tensor:
        """[windows, n, heads * head_dim] to [windows, heads, n, head_dim]."""
        return x.unflatten(2, (heads, self.head_dim)).transpose(1, 2)

    def repeat(self, x: Tensor) -> Tensor:
        """Heads of k or v as often as queries share them."""
        return x if self.multi_head else x.repeat_interleave(self.heads // self.kv_heads, 1)


def check_tokens(tokens: Tensor, vocabulary: int, context: int) -> Tensor:
    """Token ids [windows, n] int64 below `vocabulary`, n at most `context`; Refused where they are not."""
    if tokens.dim() != 2 or tokens.is_floating_point() or not tokens.numel():
        raise Refused(f"token ids are integers [windows, tokens], not {tokens.dtype} of {list(tokens.shape)}")
    if tokens.shape[1] > context:
        raise Refused(
            f"{tokens.shape[1]} tokens are more than the context of {context}: take shorter windows"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocabulary:
        raise Refused(f"token ids go from 0 to {vocabulary - 1}: tokenize with this model's tokenizer")
    return tokens.long()


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return gain * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps))


def rotated(x: Tensor) -> Tensor:
    """(-x2, x1) of the halves (x1, x2) of the last axis: a rotary pair is j and j + head_dim / 2."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def _module(model: Model) -> tuple[Any, Any]:
    """The torch module and its configuration, looked at piece by piece."""
    runner = model.runner
    way_out = "load a Llama such as wb.load('tiny-llama')"
    if runner.task != "language":
        raise Refused(
            f"{model.name} is no language model: the integer pass is written for the Llama family; {way_out}"
        )
    if too_large(model):
        raise Refused(
            f"{model.name} does not fit into memory as a whole, and gradients go through all of it: take "
            "wb.Recipe([wb.MobileQuant()]), which learns block by block, or a smaller model"
        )
    module: Any = runner.module
    config: Any = getattr(module, "config", None)
    kind = getattr(config, "model_type", type(module).__name__)
    if kind != "llama":
        raise Refused(
            f"{model.name} is a {kind}: the integer pass is written for the Llama family; {way_out}"
        )
    biased = [n for n, p in module.named_parameters() if n.endswith(".bias")]
    if biased or config.hidden_act != "silu":
        what = f"biases ({biased[0]})" if biased else f"the activation {config.hidden_act}"
        raise Refused(
            f"{model.name} has {what}: the integer pass knows Llama without biases and with SiLU; {way_out}"
        )
    return module, config


def _tensors(module: Any) -> dict[str, Tensor]:
    found = {
        "embed": module.model.embed_tokens.weight,
        "norm": module.model.norm.weight,
        "head": module.lm_head.weight,
    }
    for i, block in enumerate(module.model.layers):
        found[f"{i}.norm1"], found[f"{i}.norm2"] = (
            block.input_layernorm.weight,
            block.post_attention_layernorm.weight,
        )
        for name in LINEAR:
            owner = block.self_attn if name in "qkvo" else block.mlp
            found[f"{i}.{name}"] = getattr(owner, f"{name}_proj").weight
    return {name: tensor.detach().float().clone() for name, tensor in found.items()}
