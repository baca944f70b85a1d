"""What lies on the bench: sources of lazy tensors, layers, models, and the embedded zoo."""

from .layer import Layer
from .model import LAYER_COLUMNS, Model, checkpoint_layers, module_layers
from .runner import Runner
from .source import DictSource, Source, TensorInfo

__all__ = [
    "LAYER_COLUMNS",
    "DictSource",
    "Layer",
    "Model",
    "Runner",
    "Source",
    "TensorInfo",
    "checkpoint_layers",
    "module_layers",
]
