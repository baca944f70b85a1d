"""The speed room: kernels, their compilation without a GPU, honest timing, and the table that shows it.

from workbench.speed import kernels, compile_kernel, measure
measure("1x4096x4096")                                   # a DataFrame, a row per kernel
compile_kernel(kernels()["fp32_tiled"].source, "sm_90").registers
"""

from .kernel import Kernel, kernels
from .lab import COLUMNS, measure, parse_shape
from .layer import run_layer
from .nvrtc import (
    Compiled,
    CompileError,
    Message,
    NoCompiler,
    Resources,
    compile_kernel,
    supported_architectures,
)
from .record import document, record, to_records
from .time import Candidate, Timing, check, reference, time_interleaved

__all__ = [
    "COLUMNS",
    "Candidate",
    "CompileError",
    "Compiled",
    "Kernel",
    "Message",
    "NoCompiler",
    "Resources",
    "Timing",
    "check",
    "compile_kernel",
    "document",
    "kernels",
    "measure",
    "parse_shape",
    "record",
    "reference",
    "run_layer",
    "supported_architectures",
    "time_interleaved",
    "to_records",
]
