"""Layer: one weight matrix [out, in] and how it sits in the checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .roles import TRANSPOSED, role_of
from .source import TensorInfo


@dataclass(frozen=True)
class Layer:
    """A weight as a matrix [out, in]. `tensor` is its name in the source; `stored` its shape there.

    `transposed`: the source keeps [in, out] (GPT-2's Conv1D). `tied`: other names that are the same weight.
    `note` says in words what is unusual: tied, transposed, fused, convolution, stacked experts.
    """

    name: str
    tensor: str
    role: str
    block: int | None
    shape: tuple[int, int]
    stored: tuple[int, ...]
    dtype: torch.dtype
    transposed: bool = False
    tied: tuple[str, ...] = ()
    note: str = ""

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    def to_matrix(self, tensor: Tensor) -> Tensor:
        """The stored tensor as [out, in] (a view where it can be)."""
        return tensor.T if self.transposed else tensor.reshape(self.shape)

    def to_tensor(self, matrix: Tensor) -> Tensor:
        """A matrix [out, in] in the shape that the source, and the network, keep."""
        return matrix.T if self.transposed else matrix.reshape(self.stored)


def layer_of(info: TensorInfo, tied: tuple[str, ...] = (), conv1d: bool | None = None) -> Layer | None:
    """The layer that a tensor is, or None for what is no weight matrix (norms, biases, buffers, positions).

    Its block is filled in by who knows the other layers. `conv1d` says whether the module keeps it transposed,
    where that is known; else GPT-2's names decide.
    """
    name = info.name.removesuffix(".weight")
    experts = info.name == name and len(info.shape) == 3 and "experts" in name
    is_weight = info.name.endswith("weight") or experts
    if not is_weight or len(info.shape) < 2 or not info.dtype.is_floating_point or 0 in info.shape:
        return None
    role = role_of(name, len(info.shape))
    notes = []
    transposed = bool(TRANSPOSED.search(name)) if conv1d is None else conv1d
    transposed = transposed and len(info.shape) == 2
    if transposed:
        shape = (info.shape[1], info.shape[0])
        notes.append("stored transposed [in, out]")
    elif experts:
        shape = (math.prod(info.shape[:-1]), info.shape[-1])
        notes.append(f"{info.shape[0]} experts stacked")
    else:
        shape = (info.shape[0], math.prod(info.shape[1:]))
    if len(info.shape) > 2 and not experts:
        size = " x ".join(map(str, info.shape[2:]))
        notes.append(f"convolution {size}, {info.shape[1]} channels in: columns are channel x kernel")
    if role == "qkv":
        notes.append(f"fused q, k, v: {shape[0]} rows")
    elif name.endswith("gate_up_proj"):
        notes.append(f"fused gate, up: {shape[0]} rows")
    if tied:
        notes.append(f"tied with {', '.join(tied)}")
    return Layer(
        name, info.name, role, None, shape, info.shape, info.dtype, transposed, tied, "; ".join(notes)
    )
