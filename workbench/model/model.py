"""Model: what lies on the bench. A source that nothing changes, its layer table, and overlays of changed weights.

A model with overlays is another Model that shares the base: dropping it undoes every change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import Refused, near
from ..grid import CompressedWeight, Running
from .layer import Layer, layer_of
from .roles import CONV1D_FAMILIES, ROLES, block_prefix
from .runner import Runner
from .source import DictSource, Source, TensorInfo

if TYPE_CHECKING:
    import pandas as pd

LAYER_COLUMNS = {
    "name": "layer, as the checkpoint calls it without .weight",
    "role": "embed, q, k, v, qkv, o, gate, up, down, conv, fc or head",
    "block": "index of the transformer or residual block, from 0; empty outside blocks",
    "rows": "outputs of the matrix [out, in]",
    "columns": "inputs of the matrix [out, in]",
    "shape": "shape as stored",
    "dtype": "as stored",
    "parameters": "number of weights",
    "note": "tied, transposed, fused, convolutional",
}


class Model:
    """An immutable base and overlays. Make one with `workbench.load`.

    `config` is the checkpoint's configuration, `folder` where it lies (None in memory); `runner` is what runs it,
    or the reason in one sentence why nothing does.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        layers: Iterable[Layer],
        config: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        runner: Runner | str = "this model was made without a runner",
    ):
        self.name, self.source = name, source
        self.layers = tuple(layers)
        self.config = dict(config or {})
        self.folder = folder
        self._runner = runner
        self.overlays: Mapping[str, CompressedWeight] = {}
        self.vectors: Mapping[str, Tensor] = {}
        self._by_name = {layer.name: layer for layer in self.layers}

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {len(self.layers)} layers, {self.parameters / 1e6:.2f} M weights)"

    @property
    def runner(self) -> Runner:
        """What runs the model. Refused, with the reason, where only its weights can be looked at."""
        if isinstance(self._runner, str):
            raise Refused(self._runner)
        return self._runner

    @property
    def task(self) -> str | None:
        """language, classification, or None where the model cannot be run."""
        return None if isinstance(self._runner, str) else self._runner.task

    @property
    def parameters(self) -> int:
        """Weights in layers (norms and biases not counted)."""
        return sum(layer.parameters for layer in self.layers)

    def records(self) -> list[dict[str, Any]]:
        """The rows of `table` as plain values, for whoever does without pandas."""
        return [
            {
                "name": layer.name,
                "role": layer.role,
                "block": layer.block,
                "rows": layer.shape[0],
                "columns": layer.shape[1],
                "shape": list(layer.stored),
                "dtype": str(layer.dtype).removeprefix("torch."),
                "parameters": layer.parameters,
                "note": layer.note,
            }
            for layer in self.layers
        ]

    @property
    def table(self) -> pd.DataFrame:
        """One row a layer; the columns are described in `LAYER_COLUMNS` and in the frame's `attrs`."""
        import pandas as pd

        frame = pd.DataFrame(self.records(), columns=list(LAYER_COLUMNS)).astype({"block": "Int64"})
        frame.attrs["columns"] = LAYER_COLUMNS
        return frame

    def layer(self, name: str) -> Layer:
        """The layer of that name (with or without .weight). Refused, with near names, where there is none."""
        name = name.removesuffix(".weight")
        if name not in self._by_name:
            raise Refused(f"{self.name} has no layer {name!r}{near(name, self._by_name)}")
        return self._by_name[name]

    def select(self, selector: str) -> list[Layer]:
        """Layers by glob ("*.mlp.*"), role ("role:down"), or several of either separated by commas.

        Refused, with near names, where a part matches nothing.
        """
        chosen: dict[str, Layer] = {}
        for part in filter(None, (part.strip() for part in selector.split(","))):
            found = [layer for layer in self.layers if _matches(layer, part)]
            if not found:
                kind, _, word = part.partition(":")
                roles = [role for role in ROLES if any(layer.role == role for layer in self.layers)]
                hint = near(word, roles) if kind == "role" else near(part, self._by_name)
                raise Refused(f"the selector {part!r} matches no layer of {self.name}{hint}")
            chosen.update((layer.name, layer) for layer in found)
        if not chosen:
            raise Refused(f"an empty selector matches no layer of {self.name}; '*' is all of them")
        return [layer for layer in self.layers if layer.name in chosen]

    def base_weight(self, name: str) -> Tensor:
        """The unchanged weight [out, in], float32. Refused where it has NaN or infinite values."""
        layer = self.layer(name)
        matrix = layer.to_matrix(self.source.read(layer.tensor)).float().contiguous()
        if not torch.isfinite(matrix.sum()) and not torch.isfinite(matrix).all():
            bad = (~torch.isfinite(matrix)).nonzero()
            raise Refused(
                f"{layer.name} of {self.name} has {len(bad)} NaN or infinite weights, the first at row "
                f"{bad[0, 0]}, column {bad[0, 1]}: leave it out with a selector, or mend the checkpoint"
            )
        return matrix

    def weight(self, name: str) -> Tensor:
        """The weight [out, in] float32 as it is now: the overlay's where there is one."""
        name = self.layer(name).name
        return self.overlays[name].dequantize() if name in self.overlays else self.base_weight(name)

    def with_overlays(
        self, overlays: Mapping[str, CompressedWeight], vectors: Mapping[str, Tensor] | None = None
    ) -> Model:
        """The same base with these weights changed (and no others), and these other tensors (norm gains, biases) by
        their name in the checkpoint."""
        for name, compressed in overlays.items():
            if compressed.shape != self.layer(name).shape:
                raise Refused(f"{name} is {self.layer(name).shape}, not {compressed.shape}")
        changed = Model.__new__(Model)
        changed.__dict__.update(self.__dict__)
        changed.overlays, changed.vectors = dict(overlays), dict(vectors or {})
        return changed

    @property
    def running(self) -> dict[Layer | str, Tensor | Running]:
        """What of the base is replaced in a run."""
        weights = {self.layer(name): compressed.running() for name, compressed in self.overlays.items()}
        return {**weights, **self.vectors}

    @property
    def base(self) -> Model:
        """This model without overlays."""
        return self.with_overlays({})


def _matches(layer: Layer, part: str) -> bool:
    if part.startswith("role:"):
        return layer.role == part.removeprefix("role:")
    return fnmatchcase(layer.name, part.removesuffix(".weight"))


def checkpoint_layers(source: Source, config: Mapping[str, Any]) -> list[Layer]:
    """The layer table of a checkpoint, from headers only; `config` tells what names alone cannot (tied heads)."""
    infos = source.tensors()
    embedding = next((n for n in infos if re.search(r"(embed_tokens|wte|word_embeddings)\.weight$", n)), "")
    has_head = any(re.search(r"(^|\.)(lm_head|embed_out)\.weight$", n) for n in infos)
    tied = bool(config.get("tie_word_embeddings", config.get("model_type") == "gpt2")) and not has_head
    plain = config.get("model_type", "gpt2") not in CONV1D_FAMILIES
    return _layers(infos.values(), {embedding: ("lm_head",)} if tied else {}, set() if plain else None)


def module_layers(module: nn.Module) -> tuple[DictSource, list[Layer]]:
    """(source, layers) of a module in memory: shared parameters are one layer, Conv1D modules are transposed, an
    Embedding is one whatever its name."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, tuple[str, ...]] = {}
    first: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owner = first.setdefault(id(parameter), name)
        if owner == name:
            tensors[name] = parameter.detach()
        else:
            tied[owner] = (*tied.get(owner, ()), name.removesuffix(".weight"))
    conv1d = {f"{n}.weight" for n, m in module.named_modules() if type(m).__name__ == "Conv1D"}
    layers = _layers(DictSource(tensors).tensors().values(), tied, conv1d)
    tables = {first[id(m.weight)] for m in module.modules() if isinstance(m, nn.Embedding)}  # tied ones too
    layers = [replace(layer, role="embed") if layer.tensor in tables else layer for layer in layers]
    # The buffers that a checkpoint keeps (running means of batch norms) belong to what is exported.
    known = {*tensors, *(name for name, _ in module.named_parameters(remove_duplicate=False))}
    tensors |= {n: t for n, t in module.state_dict().items() if n not in known and isinstance(t, Tensor)}
    return DictSource(tensors, f"{type(module).__name__} in memory"), layers


def _layers(
    infos: Iterable[TensorInfo], tied: Mapping[str, tuple[str, ...]], conv1d: set[str] | None = None
) -> list[Layer]:
    found: list[tuple[tuple[int, int], str | None, Layer]] = []
    first: dict[str, int] = {}  # where the stack of blocks that a layer belongs to begins
    for position, info in enumerate(infos):
        transposed = None if conv1d is None else info.name in conv1d
        layer = layer_of(info, tied.get(info.name, ()), transposed)
        if layer is None:
            continue
        prefix = block_prefix(layer.name)
        stack, _, number = ("", "", "0") if prefix is None else prefix.rpartition(".")
        begins = position if prefix is None else first.setdefault(stack, position)
        found.append(((begins, int(number)), prefix, layer))
    # A checkpoint that is sorted by name has layers.10 before layers.2: blocks go by their number.
    found.sort(key=lambda entry: entry[0])
    ordinals: dict[str | None, int] = {None: -1}
    for _, prefix, _ in found:
        ordinals.setdefault(prefix, len(ordinals) - 1)
    return [replace(layer, block=None if prefix is None else ordinals[prefix]) for _, prefix, layer in found]
