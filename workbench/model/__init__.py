"""What lies on the bench: sources of lazy tensors, layers, models, and the embedded zoo."""

from .chain import Chain, Flow
from .layer import Layer
from .model import LAYER_COLUMNS, Model, checkpoint_layers, module_layers
from .runner import Runner, Weights
from .source import DictSource, Source, TensorInfo

__all__ = [
    "LAYER_COLUMNS",
    "Chain",
    "DictSource",
    "Flow",
    "Layer",
    "Model",
    "Runner",
    "Source",
    "TensorInfo",
    "Weights",
    "checkpoint_layers",
    "module_layers",
]
