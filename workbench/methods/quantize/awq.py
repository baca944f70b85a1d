"""AWQ: inputs that carry much are multiplied into their weights before rounding, so that their rounding error shrinks.

w s is rounded for an input x / s, with s = mean|x|^r and r searched on a grid; then the range of every group is clipped
where that lessens the error of the layer's output. Lin et al. 2024, equations 4 and 5; auto_scale.py, auto_clip.py.

Three differences from the reference. Its loss compares outputs of modules (attention, MLP) on stored tokens; here it is
the output error of all layers that read x, exactly, from the Hessian: sum over layers of tr(D H D^T). Its grid need
not hold 0; ours does. A channel that was silent in calibration keeps s = 1. And one sameness to know: the reference
never clips q and k, whose product enters a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...grid import Blocks, CompressedWeight, Patch, Report
from ...jobs import beat
from ..base import Statistics, Transform, storable
from ..rounding import Rounding

FLOOR = 1e-4  # of a scale, before it is centred
CLIPS = tuple(1 - i / 20 for i in range(10))  # n_grid = 20, max_shrink = 0.5
PANEL = 256  # inputs at a time in a product with the Hessian


class AWQ(Rounding, Transform):
    """Scale salient inputs before rounding, clip each group."""

    name = "awq"
    summary = "AWQ: salient inputs are scaled up before rounding, by a searched power of mean|x|; groups are clipped"
    source = "Lin et al. 2024, equations 4 and 5; mit-han-lab/llm-awq; duo_scaling as in AutoAWQ"
    needs = frozenset({"mean_abs", "hessian"})

    grid_points: int = Field(
        20, ge=1, le=100, description="exponents r tried: 0, 1/n, ..., (n - 1)/n; 1: no scaling",
        json_schema_extra={"stops": [1, 5, 10, 20, 50]},
    )  # fmt: skip
    duo_scaling: bool = Field(
        False,
        description="divide by the weights' own size too, as AutoAWQ does",
        json_schema_extra={"more": True},
    )
    clip: bool = Field(
        True,
        description="search the range of each group; the reference leaves q and k unclipped",
        json_schema_extra={"where": {"scale_search": ["none"]}},
    )
    protect: float = Field(
        0.0, ge=0, le=0.5, description="share of the most salient inputs that stay float, to see what they carry",
        json_schema_extra={"stops": [0.0, 0.001, 0.01, 0.02, 0.05, 0.1]},
    )  # fmt: skip
    protect_by: Literal["activation", "weight", "random"] = Field(
        "activation",
        description="what makes an input salient; the weight counts as it is scaled: grid_points 1 leaves it as it is",
        json_schema_extra={"more": True},
    )

    def scales(self, weights: Sequence[Tensor], statistics: Statistics) -> Tensor:
        return self.search(weights, statistics)[0]

    def search(self, weights: Sequence[Tensor], statistics: Statistics) -> tuple[Tensor, Report]:
        """s [in] of the exponent with the least loss, for the weights [out_i, in] that read one input."""
        known = self.given(statistics)
        assert known.mean_abs is not None
        assert known.hessian is not None

        def rounded(w: Tensor, s: Tensor) -> Tensor:
            """w s on the grid, protected columns as they are."""
            made = self._rounded(w * s, known.scaled(s) if self.searches_inputs else known)
            return self._with_protected(made, w * s, known).dequantize()

        beside = relative_size(weights, self) if self.duo_scaling else None
        tried = [
            storable(centred_scale(known.mean_abs, i / self.grid_points, beside=beside))
            for i in range(self.grid_points)
        ]
        losses = scale_losses(weights, known.hessian, tried, rounded)
        size = sum(energy(w, known.hessian) for w in weights)
        best = min(range(len(tried)), key=losses.__getitem__)
        s, facts = tried[best], {"best r": best / self.grid_points}
        if self.duo_scaling:  # none of its candidates is the identity
            plain = scale_losses(weights, known.hessian, [torch.ones_like(s)], rounded)[0]
            facts["loss without scales"] = plain / size if size else 0.0
            s = s if losses[best] <= plain else torch.ones_like(s)
        return s, Report({"loss": [loss / size if size else 0.0 for loss in losses]}, facts)

    def compress_scaled(self, w: Tensor, statistics: Statistics) -> CompressedWeight:
        """w [out, in], scaled already, clipped and rounded to nearest; statistics of the divided input."""
        known = self.given(statistics)
        report = Report()
        clipped = w
        if self.clip and self.scale_search == "none":
            assert known.hessian is not None
            limit, report = self._clip(w, known)
            wide = self.blocks((w.shape[0], w.shape[1])).expand(limit)
            clipped = w.clamp(-wide, wide)
        made = self._rounded(clipped, known)
        return self._with_protected(made, w, known).with_report(report)

    def _rounded(self, w: Tensor, known: Statistics) -> CompressedWeight:
        return self.quantize(w, known.mean_square if self.searches_inputs else None)

    def _clip(self, w: Tensor, known: Statistics) -> tuple[Tensor, Report]:
        """The limit of |w| in each block [counts] under which its part of the output has the least error."""
        assert known.hessian is not None
        blocks = self.blocks((w.shape[0], w.shape[1]))
        largest = blocks.reduce(w.abs(), "amax")
        best = torch.ones_like(largest)
        least: Tensor | None = None
        for ratio in CLIPS:
            wide = blocks.expand(largest * ratio)
            change = self._rounded(w.clamp(-wide, wide), known).dequantize() - w
            error = block_errors(change, known.hessian, blocks)
            better = torch.zeros_like(error, dtype=torch.bool) if least is None else error < least
            best = torch.where(better, torch.full_like(best, ratio), best)
            least = error if least is None else torch.minimum(error, least)
        return largest * best, Report(facts={"mean clip": float(best.mean())})

    def _with_protected(self, made: CompressedWeight, w: Tensor, known: Statistics) -> CompressedWeight:
        """With the columns of the most salient inputs of w in float. x / s = x / x^r ranks as x does; w s does not
        rank as w, so that where scales are searched "weight" means the scaled one."""
        count = round(self.protect * w.shape[1]) or (1 if self.protect else 0)
        if not count:
            return made
        assert known.mean_abs is not None
        if self.protect_by == "random":
            columns = torch.randperm(w.shape[1], generator=torch.Generator().manual_seed(0))[:count]
        else:
            salience = known.mean_abs if self.protect_by == "activation" else w.norm(dim=0)
            columns = salience.topk(count).indices
        columns = columns.sort().values
        values = w[:, columns]
        half = values.half()
        exact = torch.linalg.vector_norm(half.float() - values) <= 1e-3 * torch.linalg.vector_norm(values)
        return replace(made, patch=Patch(columns, half if exact else values))

    @property
    def label(self) -> str:
        kept = f" +{100 * self.protect:g} %" if self.protect else ""
        return f"awq {self.scheme_label}{' duo' if self.duo_scaling else ''}{kept}"


def centred_scale(salience: Tensor, r: float, *, beside: Tensor | None = None) -> Tensor:
    """s [in] = a^r of a = mean|x|, divided by sqrt(max s min s) so that it neither grows nor shrinks the weights.

    `beside` [in] are the weights' own sizes: then s = a^r / (size^(1 - r) + 1e-4). Silent channels have s = 1.
    """
    s = salience**r if beside is None else salience**r / (beside ** (1 - r) + 1e-4)
    s = s.clamp(min=FLOOR)
    live = s[salience > 0]
    if live.numel() == 0:
        return torch.ones_like(s)
    s = s / (live.max() * live.min()).sqrt()
    return torch.where((salience > 0) & torch.isfinite(s), s, torch.ones_like(s))


def relative_size(weights: Sequence[Tensor], scheme: Rounding) -> Tensor:
    """[in]: the mean over all rows of |w| divided by the largest of its block."""
    sizes = []
    for w in weights:
        blocks = scheme.blocks((w.shape[0], w.shape[1]))
        largest = blocks.expand(blocks.reduce(w.abs(), "amax"))
        sizes.append(w.abs() / largest.clamp(min=torch.finfo(w.dtype).tiny))
    return torch.cat(sizes).mean(0)


def scale_losses(
    weights: Sequence[Tensor],
    hessian: Tensor,
    scales: Sequence[Tensor],
    rounded: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    """sum over the weights w of E|x D^T|^2, D = rounded(w, s) / s - w, for each s [in]."""
    losses = []
    for done, s in enumerate(scales, 1):
        losses.append(sum(energy(rounded(w, s) / s - w, hessian) for w in weights))
        beat(done, len(scales), loss=losses[-1])
    return losses


def energy(d: Tensor, hessian: Tensor) -> float:
    """tr(d H d^T) of d [out, in] and a symmetric H [in, in], from its lower triangle: half the work of d H."""
    total = 0.0
    for start in range(0, d.shape[1], PANEL):
        stop = min(start + PANEL, d.shape[1])
        part = d[:, start:stop] @ hessian[start:stop, start:stop]
        if stop < d.shape[1]:
            part = part + 2 * (d[:, stop:] @ hessian[stop:, start:stop])
        total += float((part * d[:, start:stop]).sum().double())
    return max(total, 0.0)


def block_errors(d: Tensor, hessian: Tensor, blocks: Blocks) -> Tensor:
    """E[(sum of x_j d_ij over the inputs j of a block)^2] of a change d [out, in], summed over the block's rows:
    [counts]. It is d H d^T within the block."""
    if blocks.columns == 1:
        return blocks.reduce(d.square() * hessian.diagonal(), "sum")
    parts = []
    for start in range(0, d.shape[1], blocks.columns):
        own = slice(start, start + blocks.columns)
        parts.append((d[:, own] @ hessian[own, own] * d[:, own]).sum(1))
    per_row = torch.stack(parts, 1)
    return Blocks((per_row.shape[0], per_row.shape[1]), blocks.rows, 1).reduce(per_row, "sum")
