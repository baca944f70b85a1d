"""Runner: what it takes to run a model, kept apart from its weights.

A runner builds the module once, in float32 evaluation mode, and runs it with any of its weights replaced
(`torch.func.functional_call`), so that a variant costs no second module and nothing can change the base.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Refused
from .layer import Layer

Task = Literal["language", "classification"]


class Runner:
    """Builds and runs the module of a model.

    `build` returns the module; it is called once, when first needed. `task` says what the outputs are: logits
    [batch, tokens, vocabulary] of token ids, or [batch, classes] of images. `context` is the longest input of a
    language model in tokens, `tokenizer` makes its tokenizer and `prepare` its inputs.

    A run swaps weights of the one module and hooks hear every run of it, so a lock lets one thread run at a time:
    a slider's and a job's take turns batch by batch.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        task: Task,
        context: int | None = None,
        tokenizer: Callable[[], Any] | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ):
        self._build, self.task, self.context = build, task, context
        self._tokenizer, self.prepare = tokenizer, prepare
        self._lock = threading.RLock()
        self._module: nn.Module | None = None
        self._names: dict[str, nn.Parameter] = {}

    @property
    def module(self) -> nn.Module:
        with self._lock:
            if self._module is None:
                module = self._build().eval()
                for parameter in module.parameters():
                    parameter.requires_grad_(False)
                self._module = module
            return self._module

    @property
    def built(self) -> bool:
        """Whether the module is in memory already."""
        return self._module is not None

    @cached_property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            raise Refused("this model came without a tokenizer: load it from a directory with tokenizer.json")
        return self._tokenizer()

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without added special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    # Plain properties: in Python 3.11 a cached_property has a lock of its own, and two threads could take the two
    # locks in two orders.
    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        with self._lock:
            if not self._names:
                self._names = dict(self.module.named_parameters(remove_duplicate=False))
            return self._names

    def parameter_name(self, layer: Layer) -> str:
        """The parameter of the module that a checkpoint's tensor became.

        Names agree up to the prefix of the base model ("model.", "transformer."), which checkpoints of the bare
        base model leave out.
        """
        known = self._parameters
        if layer.tensor in known:
            return layer.tensor
        ends = [n for n in known if n.endswith("." + layer.tensor) or layer.tensor.endswith("." + n)]
        if len(ends) != 1:
            raise Refused(
                f"{type(self.module).__name__} has no parameter for {layer.tensor} of the checkpoint"
            )
        return ends[0]

    @torch.no_grad()  # not inference_mode: what calibration collects from it enters gradients later
    def logits(self, inputs: Tensor, weights: Mapping[Layer, Tensor] | None = None) -> Tensor:
        """Outputs of the module, float32, with `weights` (matrices [out, in]) in place of the base's."""
        changed = {
            self.parameter_name(layer): layer.to_tensor(matrix) for layer, matrix in (weights or {}).items()
        }
        if self.prepare is not None:
            inputs = self.prepare(inputs)
        keywords = {"use_cache": False} if self._takes_cache else {}
        with self._lock:
            result = torch.func.functional_call(self.module, changed, (inputs,), keywords)
        return (result if isinstance(result, Tensor) else result.logits).float()

    @property
    def _takes_cache(self) -> bool:
        return bool(getattr(getattr(self.module, "config", None), "use_cache", False))

    @contextmanager
    def inputs_of(self, layers: list[Layer], hear: Callable[[Layer, Tensor], None]) -> Iterator[None]:
        """While open, every run of the module tells `hear(layer, x)` the input x [tokens, in] of these layers; other
        threads wait.

        Linear layers and GPT-2's Conv1D give their input rows; convolutions their unfolded patches (im2col), so
        that x W^T is the layer's output in each case. Embeddings have no input rows and are left out.
        """
        hooks: list[tuple[nn.Module, Callable[..., None]]] = []
        modules = dict(self.module.named_modules())
        for layer in layers:
            module = modules.get(re.sub(r"\.weight$", "", self.parameter_name(layer)))
            if module is None or isinstance(module, nn.Embedding):
                continue

            def hook(module: nn.Module, inputs: tuple[Any, ...], layer: Layer = layer) -> None:
                rows = _input_rows(module, inputs[0], layer)
                if rows is not None:
                    hear(layer, rows)

            hooks.append((module, hook))
        with self._lock:
            handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()


def _input_rows(module: nn.Module, x: Tensor, layer: Layer) -> Tensor | None:
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return None  # each group sees other inputs: there is no one matrix product
        patches = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2).reshape(-1, layer.shape[1]).float()
    if x.shape[-1] != layer.shape[1]:
        return None
    return x.reshape(-1, layer.shape[1]).float()
