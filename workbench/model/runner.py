"""Runner: what it takes to run a model, kept apart from its weights.

A runner builds the module once, in float32 evaluation mode, and runs it with any of its weights replaced
(`torch.func.functional_call`), so that a variant costs no second module and nothing can change the base.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import Refused
from ..grid import Running
from .layer import Layer

# What replaces what in a run: matrices by layer, other tensors (norm gains, biases) by their name in the checkpoint.
Weights = Mapping[Layer | str, Tensor | Running]
Task = Literal["language", "classification"]


class Runner:
    """Builds and runs the module of a model.

    `build` returns the module; it is called once, when first needed. `task` says what the outputs are: logits
    [batch, tokens, vocabulary] of token ids, or [batch, classes] of images. `context` is the longest input of a
    language model in tokens, `tokenizer` makes its tokenizer and `prepare` its inputs. `frame` builds the module with
    parameters on the meta device, for networks that do not fit into memory.

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
        frame: Callable[[], nn.Module] | None = None,
    ):
        self._build, self.task, self.context = build, task, context
        self._tokenizer, self.prepare = tokenizer, prepare
        self.frame = frame
        self.lock = threading.RLock()
        self._module: nn.Module | None = None
        self._names: dict[str, nn.Parameter] = {}

    @property
    def module(self) -> nn.Module:
        with self.lock:
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
        with self.lock:
            if not self._names:
                self._names = dict(self.module.named_parameters(remove_duplicate=False))
            return self._names

    def parameter_name(self, layer: Layer | str, known: Mapping[str, nn.Parameter] | None = None) -> str:
        """The parameter of the module that a checkpoint's tensor became (`known`: those of another build of it).

        Names agree up to the prefix of the base model ("model.", "transformer."), which checkpoints of the bare
        base model leave out.
        """
        known = self._parameters if known is None else known
        tensor = layer if isinstance(layer, str) else layer.tensor
        if tensor in known:
            return tensor
        ends = [n for n in known if n.endswith("." + tensor) or tensor.endswith("." + n)]
        if len(ends) != 1:
            network = "the network" if self._module is None else type(self._module).__name__
            raise Refused(f"{network} has no parameter for {tensor} of the checkpoint")
        return ends[0]

    @torch.no_grad()  # not inference_mode: what calibration collects from it enters gradients later
    def logits(self, inputs: Tensor, weights: Weights | None = None) -> Tensor:
        """Outputs of the module, float32, with `weights` in place of the base's: matrices [out, in], or what a
        compressed weight is `running` as, which may quantize the layer's input and shift its output."""
        if self.prepare is not None:
            inputs = self.prepare(inputs)
        keywords = {"use_cache": False} if self.takes_cache(self.module) else {}
        with self.lock, replaced(self.module, self.parameter_name, weights or {}) as changed:
            result = torch.func.functional_call(self.module, changed, (inputs,), keywords)
        return (result if isinstance(result, Tensor) else result.logits).float()

    @staticmethod
    def takes_cache(module: nn.Module) -> bool:
        return bool(getattr(getattr(module, "config", None), "use_cache", False))

    @contextmanager
    def inputs_of(self, layers: list[Layer], hear: Callable[[Layer, Tensor], None]) -> Iterator[None]:
        """While open, every run of the module tells `hear(layer, x)` the input x [tokens, in] of these layers; other
        threads wait.

        Linear layers and GPT-2's Conv1D give their input rows; convolutions their unfolded patches (im2col), so
        that x W^T is the layer's output in each case. Embeddings have no input rows and are left out.
        """
        with self.lock, listening(self.module, self.parameter_name, layers, hear):
            yield


@contextmanager
def listening(
    module: nn.Module,
    name_of: Callable[[Layer], str],
    layers: list[Layer],
    hear: Callable[[Layer, Tensor], None],
) -> Iterator[None]:
    """`Runner.inputs_of` for any module whose parameters are called `name_of(layer)`."""
    handles = []
    for layer in layers:
        owner = _owner(module, name_of(layer))
        if owner is None or isinstance(owner, nn.Embedding):
            continue

        def hook(module: nn.Module, inputs: tuple[Any, ...], layer: Layer = layer) -> None:
            rows = _input_rows(module, inputs[0], layer)
            if rows is not None:
                hear(layer, rows)

        handles.append(owner.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(
    module: nn.Module, name_of: Callable[[Layer | str], str], weights: Weights
) -> Iterator[dict[str, Tensor]]:
    """Parameters by name for `torch.func.functional_call`; while open, the layers whose inputs are quantized or whose
    outputs are shifted do so at every run of the module."""
    changed, handles = {}, []
    for layer, weight in weights.items():
        name = name_of(layer)
        if isinstance(weight, Tensor):
            changed[name] = weight if isinstance(layer, str) else layer.to_tensor(weight)
            continue
        assert isinstance(layer, Layer)
        changed[name] = layer.to_tensor(weight.matrix)
        owner = _owner(module, name)
        if owner is None:
            continue
        if weight.inputs is not None:
            handles.append(owner.register_forward_pre_hook(_on_inputs(weight.inputs)))
        if weight.shift is not None:
            handles.append(owner.register_forward_hook(_on_output(weight.shift)))
    try:
        yield changed
    finally:
        for handle in handles:
            handle.remove()


def _owner(module: nn.Module, parameter: str) -> nn.Module | None:
    """The module that a parameter belongs to."""
    name, _, last = parameter.rpartition(".")
    try:
        return module.get_submodule(name) if last == "weight" else None
    except AttributeError:
        return None


def _on_inputs(quantize: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Any, ...]]:
    def apply(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = inputs[0]
        # What a token is to a convolution: one image.
        rows = x.flatten(1) if isinstance(module, nn.Conv2d) else x
        return (quantize(rows).view_as(x), *inputs[1:])

    return apply


def _on_output(shift: Tensor) -> Callable[..., Tensor]:
    def add(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output + (shift[:, None, None] if isinstance(module, nn.Conv2d) else shift)

    return add


def _input_rows(module: nn.Module, x: Tensor, layer: Layer) -> Tensor | None:
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return None  # each group sees other inputs: there is no one matrix product
        patches = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2).reshape(-1, layer.shape[1]).float()
    if x.shape[-1] != layer.shape[1]:
        return None
    return x.reshape(-1, layer.shape[1]).float()
