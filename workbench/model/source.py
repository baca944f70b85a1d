"""Where weights come from: a mapping from tensor names to lazy tensors.

A source is opened by reading headers only. `info` never touches the data; `read` and `rows` return tensors in
the dtype that is stored. Nothing writes to a source, ever.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Refused, near


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor. `where` names its file, for messages."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    where: str = ""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


class Source(ABC):
    """Tensor name -> lazy tensor. `origin` says in one phrase where it all came from."""

    origin: str = ""

    @abstractmethod
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name, in the order of the checkpoint, from headers only."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The whole tensor, as stored. Refused where there is no such name."""

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) along the first axis; a container that can read parts overrides this."""
        return self.read(name)[start:stop]

    def info(self, name: str) -> TensorInfo:
        known = self.tensors()
        if name not in known:
            raise Refused(f"{self.origin} has no tensor {name!r}{near(name, known)}")
        return known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors())

    def __len__(self) -> int:
        return len(self.tensors())


class DictSource(Source):
    """Tensors that are in memory already: a state dict, or a module's parameters and buffers."""

    def __init__(self, tensors: Mapping[str, Tensor], origin: str = "memory"):
        self._tensors, self.origin = dict(tensors), origin
        self._infos = {k: TensorInfo(k, tuple(v.shape), v.dtype, origin) for k, v in tensors.items()}

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._infos

    def read(self, name: str) -> Tensor:
        self.info(name)
        return self._tensors[name].detach()
