"""Run by test_triton.py in a process of its own: candidates of Triton on the CPU, by its interpreter, as JSON.

Triton decides when it is imported whether it interprets. Its tuner and gemlite ask a driver which GPU there is and how
long a launch takes; here that is a driver which says an H100 and times the interpreter.
"""

from __future__ import annotations

import json
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from workbench.errors import Refused
from workbench.speed import by_gemlite, by_triton, cuda, kernels, ops
from workbench.speed.time import check

SHAPES = {"fp16_gemv": (3, 72, 250), "w4_mma": (18, 40, 384)}


class Driver:
    utils = SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 232448})

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_benchmarker(self) -> Any:
        def seconds(launch: Any, **_: object) -> list[float]:
            began = time.perf_counter()
            launch()
            return [time.perf_counter() - began] * 3

        return seconds

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def prepare() -> None:
    import triton

    cupy = ModuleType("cupy")
    cupy.asarray = np.asarray  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        get_current_stream=lambda: SimpleNamespace(ptr=0)
    )
    sys.modules["cupy"] = cupy
    by_triton.DEVICE = by_gemlite.DEVICE = "cpu"
    by_triton.missing = by_gemlite.missing = lambda package, install: ""  # type: ignore[assignment]
    triton.runtime.driver.set_active(Driver())  # type: ignore[arg-type]
    h100 = SimpleNamespace(
        name="NVIDIA H100", multi_processor_count=132, major=9, minor=0, total_memory=80 << 30
    )
    torch.cuda.get_device_properties = lambda device=None: h100  # type: ignore[assignment]
    torch.cuda.get_device_capability = lambda device=None: (9, 0)  # type: ignore[assignment]
    torch.cuda.get_device_name = lambda device=None: h100.name  # type: ignore[assignment]


def errors(name: str, of: Any) -> dict[str, float | str]:
    """Candidate -> its relative error, or why it is none."""
    kernel = kernels()[name]
    problem = ops.problem(kernel.op, kernel.operands, SHAPES[name], packing=kernel.packing)
    sets = cuda.Sets(kernel, problem, cuda._expected(kernel, problem), 1)
    found: dict[str, float | str] = {}
    for label, make in of.baselines(sets):
        try:
            candidate = make()
            found[label] = check(candidate, candidate.expected or sets.expected)
        except Refused as error:
            found[label] = str(error)
    return found


if __name__ == "__main__":
    prepare()
    which = {"triton": by_triton, "gemlite": by_gemlite}[sys.argv[1]]
    print(json.dumps({name: errors(name, which) for name in sys.argv[2:]}))
