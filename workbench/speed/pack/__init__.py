"""Codes of a weight as the kernels read them: NumPy in, bytes out, and back."""

from .compressed import low_bit
from .lowbit import LowBit, Runs
from .planes import pack_planes, unpack_planes
from .steps import pack_steps, unpack_steps

__all__ = ["LowBit", "Runs", "low_bit", "pack_planes", "pack_steps", "unpack_planes", "unpack_steps"]
