"""Checkpoints on disk: opened lazily and with suspicion, written whole or not at all."""

from .hub import fetch
from .open import NotThere, open_source
from .safetensors import SafetensorsFile
from .save import save_safetensors, writing_folder
from .sharded import SafetensorsFolder, ShardedCheckpoint

__all__ = [
    "NotThere",
    "SafetensorsFile",
    "SafetensorsFolder",
    "ShardedCheckpoint",
    "fetch",
    "open_source",
    "save_safetensors",
    "writing_folder",
]
