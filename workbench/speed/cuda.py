"""The candidates that run on an NVIDIA GPU, through CuPy: our kernels, and the vendor's library as their baseline.

Kernels of one family compute the same and are compared with each other: fp32 products with cuBLAS in fp32, bf16 with
cuBLAS in bf16, elementwise kernels with a copy. Each packing of the weights has operands of its own, and so does the
baseline, which multiplies a weight that is not packed; a sparse product stands beside its dense twin. Operands are made
on the host, so that they and the float64 result are those of the emulator, and lie on the device in as many copies as
exceed its cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .baselines import baselines
from .kernel import FOLDER, Kernel, kernels
from .nvrtc import Compiled, NoCompiler, compile_kernel
from .ops import DTYPES, OPS, Problem, Shape, pitched, problem
from .time import Candidate, Reference, copies_for, reference_rows
from .tma import tensor_map
from .vendor import poison, tolerance

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Device",
    "Sets",
    "baselines",
    "candidate",
    "captured",
    "empty_seconds",
    "event_clock",
    "families",
    "find_device",
    "library_versions",
    "operand_sets",
    "rehearse",
]

STATIC_SHARED = 48 << 10  # bytes per block; more has to be asked for
CHILD = Path(__file__).with_name("cuda_child.py")


@dataclass(frozen=True)
class Device:
    """A GPU that answers: its name, architecture ("sm_90"), driver ("13.0") and bytes of second-level
    cache."""

    name: str
    arch: str
    driver: str
    cache_bytes: int


def find_device() -> tuple[Device | None, str]:
    """The GPU, or None and why there is none in a few words."""
    try:
        import cupy
    except ImportError:
        if shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl"):
            return None, 'a GPU may be here, but CuPy is not (pip install "workbench[cuda13]")'
        return None, "no CUDA device here"
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount() == 0:
            return None, "no CUDA device here"
        properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
        version = runtime.driverGetVersion()
    except runtime.CUDARuntimeError as error:
        return None, f"no CUDA device here ({error})"
    return Device(
        name=properties["name"].decode(),
        arch=f"sm_{properties['major']}{properties['minor']}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
        cache_bytes=properties["l2CacheSize"],
    ), ""


def library_versions() -> dict[str, str]:
    """What the vendor's library is, for a record: CUDA's runtime and cuBLAS, as the device has them loaded."""
    import cupy

    made = {}
    try:
        runtime = cupy.cuda.runtime.runtimeGetVersion()
        made["cuda-runtime"] = f"{runtime // 1000}.{runtime % 1000 // 10}"
        number = cupy.cuda.cublas.getVersion(cupy.cuda.device.get_cublas_handle())
        made["cublas"] = f"{number // 10000}.{number % 10000 // 100}.{number % 100}"
    except (RuntimeError, AttributeError):  # what does not answer is not written down
        pass
    return made


def event_clock(work: Callable[[], object]) -> float:
    """Seconds between two events on the device, before and after `work`."""
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.cuda.get_current_stream().synchronize()
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return cupy.cuda.get_elapsed_time(start, stop) / 1e3


def captured(candidate: Candidate, calls: int) -> Callable[[], object] | None:
    """So many calls as one launch of a CUDA graph: Python and the driver need some microseconds for a launch, which
    is more than a short kernel takes. None where the calls cannot be captured. A graph that holds nothing would be
    the fastest of all, so one launch has to write the whole result."""
    if not candidate.capturable:
        return None
    import cupy

    try:
        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                for i in range(calls):
                    candidate.run(i)
            finally:  # a stream that went on capturing could do nothing else
                graph = stream.end_capture()
        candidate.poison()
        graph.launch()
        result = candidate.output()
    except (
        RuntimeError,
        AttributeError,
        Refused,
    ):  # CuPy's errors are RuntimeErrors; an old one has no graphs
        return None
    return None if (result != result).any() else graph.launch


def families(wanted: Sequence[Kernel]) -> list[list[Kernel]]:
    """The kernels that can be compared with one another: one op, or ops of one family, and one set of types but for the
    operand that a packing makes. What is not packed comes first, since the baseline has the operands of the first."""
    found: dict[tuple, list[Kernel]] = {}
    for kernel in wanted:
        op = OPS[kernel.op]
        plain = op.shapes(1, 1, 1).keys() - {op.packed}
        types = tuple((name, dtype) for name, dtype in kernel.operands.items() if name in plain)
        found.setdefault((op.family or kernel.op, types), []).append(kernel)
    return [sorted(family, key=lambda one: one.packing != "none") for family in found.values()]


@dataclass
class Sets:
    """The operands of one packing on the device: `count` copies, and what the result should be."""

    kernel: Kernel  # any that takes them
    problem: Problem
    expected: Reference
    count: int
    slack: float = (
        0.0  # of the relative error: what rounding the operands does, where `expected` is of those before
    )
    weight_error: float | None = None  # of a compressed layer
    cache_bytes: int = 0  # of the device
    _arrays: dict[tuple[int, str, int], Any] = field(default_factory=dict, repr=False)

    @property
    def footprint(self) -> int:
        """Bytes of all copies."""
        return self.count * sum(array.nbytes for array in self.problem.inputs.values())

    def array(self, i: int, name: str, pitch: int = 0) -> Any:
        """Operand `name` of copy i modulo their number, its rows at multiples of `pitch` bytes."""
        import cupy

        host: Any = self.problem.inputs[name]
        if pitch and host.ndim == 2 and host.shape[1] * host.itemsize % pitch == 0:
            pitch = 0  # it is the same
        key = i % self.count, name, pitch
        if key not in self._arrays:
            self._arrays[key] = cupy.asarray(pitched(host, pitch))
        return self._arrays[key]


def operand_sets(
    kernel: Kernel,
    shape: Shape,
    device: Device,
    *,
    seed: int = 0,
    given: Problem | None = None,
    expected: Reference | None = None,
    weight_error: float | None = None,
) -> Sets:
    """Operands for a kernel and those that share its packing, random or `given` (a compressed layer, `ops.layer`), in
    as many copies as exceed three times the device's cache, as far as `MOST_COPIES` do. `expected`: what the result
    should be, if not the product of just these operands. Refused where they do not fit the device."""
    import cupy
    import numpy as np

    made = given or problem(kernel.op, kernel.operands, shape, packing=kernel.packing, seed=seed)
    size = sum(array.nbytes for array in made.inputs.values())
    slack = made.distance(expected.values, expected.rows) if expected else 0.0
    count = copies_for(size, device.cache_bytes)
    sets = Sets(
        kernel, made, expected or _expected(kernel, made), count, slack, weight_error, device.cache_bytes
    )
    try:
        for i in range(sets.count):
            for name in made.inputs:
                sets.array(i, name, kernel.pitch)
        for shape_of in made.outputs.values():
            cupy.empty(shape_of, dtype=np.float32)
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise Refused(f"{'x'.join(map(str, shape))} does not fit {device.name}: {error}") from None
    return sets


def _expected(kernel: Kernel, made: Problem) -> Reference:
    """The float64 result: of one product the rows that are cheap to know, of several results all, end to end."""
    import numpy as np

    M, N, K = made.shape
    if len(kernel.outputs) > 1:
        whole = made.expected()
        values = _end_to_end([whole[name] for name in kernel.outputs], whole, kernel)
        return Reference(np.arange(len(values)), values)
    most, rows = reference_rows(M, N, K), np.arange(M)
    if most < M:  # drawn at random: rows at a fixed distance would always meet the same place of a tile
        inner = np.random.default_rng(0).choice(np.arange(1, M - 1), most - 2, replace=False)
        rows = np.sort(np.concatenate([[0], inner, [M - 1]]))
    (result,) = made.expected(rows).values()
    return Reference(rows, result)


def _end_to_end(results: list[np.ndarray], expected: dict[str, np.ndarray], kernel: Kernel) -> np.ndarray:
    """Several results as one column, each in units of its reference, so that no large one hides a small one."""
    import numpy as np

    parts = [
        result.ravel() / (np.linalg.norm(expected[name]) or 1)
        for name, result in zip(kernel.outputs, results, strict=True)
    ]
    return np.concatenate(parts)[:, None]


def candidate(kernel: Kernel, sets: Sets, device: Device) -> tuple[Candidate, Compiled | None]:
    """A kernel as a candidate, and what its compilation says (None if CuPy had to compile it). A source that is not
    ours is tried in a process of its own first. Refused: an architecture that does not run it, with what would;
    what does not compile; what hangs or crashes."""
    import cupy
    import numpy as np

    shape = sets.problem.shape
    grid, block, shared = kernel.launch(*shape)
    arch = _architecture(kernel, device)
    if Path(kernel.where).parent != FOLDER and (why := rehearse(kernel, shape)):
        raise Refused(f"{kernel.name}: {why}")
    function, compiled = _load(kernel, arch)
    static = compiled.functions[kernel.name].shared_bytes if compiled else 0
    if shared + static > STATIC_SHARED:
        try:
            function.max_dynamic_shared_size_bytes = shared
        except cupy.cuda.driver.CUDADriverError as error:
            raise Refused(
                f"{kernel.name} needs {shared} bytes of shared memory per block, more than {device.name} has ({error})"
            ) from None
    results = {
        name: cupy.empty(sets.problem.outputs[name], dtype=DTYPES[kernel.operands[name]].storage)
        for name in kernel.outputs
    }
    sizes = tuple(np.int32(size) for size in shape)
    arguments = [_arguments(kernel, sets, i, results) + sizes for i in range(sets.count)]

    def run(i: int) -> None:
        for name in kernel.zeroed:
            results[name].fill(0)
        try:
            function(grid, block, arguments[i % sets.count], shared_mem=shared)
        except cupy.cuda.driver.CUDADriverError as error:
            raise Refused(
                f"{kernel.name}: {device.name} does not start {grid} blocks of {block}: {error}"
            ) from None

    def poison_all() -> None:
        for result in results.values():
            poison(result)

    def output() -> np.ndarray:
        host = [
            DTYPES[kernel.operands[name]].decode(cupy.asnumpy(result)) for name, result in results.items()
        ]
        return host[0] if len(host) == 1 else _end_to_end(host, sets.problem.expected(), kernel)

    made = Candidate(
        name=kernel.name,
        run=run,
        poison=poison_all,
        output=output,
        tolerance=tolerance(kernel.tolerance, sets),
        nbytes=sets.problem.bytes(kernel.operands),
        expected=sets.expected,
        weight_error=sets.weight_error,
        footprint=sets.footprint,
        capturable=True,
    )
    return made, compiled


def rehearse(kernel: Kernel, shape: Shape, *, timeout_s: float = 60.0) -> str:
    """Run a kernel once in a process of its own: "" if it ended, else what happened. A kernel that hangs or writes
    where it may not takes the process's GPU context with it, and no more than that."""
    request = json.dumps({"source": kernel.source, "where": kernel.where, "shape": list(shape)})
    try:
        done = subprocess.run(
            # -P: this folder's time.py must not hide the standard library's
            [sys.executable, "-P", str(CHILD)],
            input=request,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"hangs on this GPU: it was stopped after {timeout_s:g} s"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return f"crashes on this GPU: {last}"
    return ""


def _architecture(kernel: Kernel, device: Device) -> str:
    """What to compile a kernel for: the device's, with a letter where the kernel asks for one. Refused where the device
    does not run it, with those of its ladder that it does run."""
    for arch in (f"{device.arch}a", device.arch):
        if kernel.runs_on(arch) and (arch == device.arch or kernel.architecture == arch):
            return arch
    instead = [
        one.name for one in kernels().values() if one.ladder == kernel.ladder and one.runs_on(device.arch)
    ]
    hint = f"; of its ladder {', '.join(instead)} would" if instead else ""
    older = "" if kernel.architecture[-1].isalpha() else " or newer"
    raise Refused(f"{kernel.name} needs {kernel.architecture}{older}; {device.name} is {device.arch}{hint}")


def _function(name: str, source: str, arch: str, called: str = "kernel.cu") -> tuple[Any, Compiled]:
    """A function on the device. Our own compilation, because CuPy puts its own -arch after ours and so cannot make
    sm_90a code."""
    import cupy

    compiled = compile_kernel(source, arch, name=called)
    cubin = Path(_folder().name, f"{name}-{hashlib.sha256(compiled.cubin).hexdigest()[:12]}.cubin")
    cubin.write_bytes(compiled.cubin)
    return cupy.RawModule(path=str(cubin)).get_function(name), compiled


def _load(kernel: Kernel, arch: str) -> tuple[Any, Compiled | None]:
    import cupy

    try:
        return _function(kernel.name, kernel.source, arch, Path(kernel.where).name)
    except (NoCompiler, cupy.cuda.driver.CUDADriverError):
        # No NVRTC of ours, or one newer than the driver: CuPy then uses the NVRTC that it was built for.
        try:
            options = (f"-I{FOLDER}",)
            module = cupy.RawModule(code=kernel.source, backend="nvrtc", options=options)
            return module.get_function(kernel.name), None
        except cupy.cuda.compiler.CompileException as error:
            raise Refused(f"{kernel.name} does not compile for {arch}: {error}") from None


def _arguments(kernel: Kernel, sets: Sets, i: int, results: dict[str, Any]) -> tuple:
    """The operands of copy i in the kernel's order; those of `maps` as TMA descriptors."""
    boxes = {box.operand: box for box in kernel.maps}
    given = []
    for name, dtype in kernel.operands.items():
        array = results[name] if name in results else sets.array(i, name, kernel.pitch)
        if box := boxes.get(name):
            given.append(
                tensor_map(array.data.ptr, dtype, sets.problem.inputs[name].shape, array.strides[0], box)
            )
        else:
            given.append(array)
    return tuple(given)


def empty_seconds(device: Device, *, rounds: int = 50) -> float | None:
    """Seconds of a kernel that does nothing, the median: what a launch costs before any work. None without NVRTC."""
    try:
        function = _function("nothing", 'extern "C" __global__ void nothing() {}', device.arch)[0]
    except NoCompiler:
        return None
    times = sorted(event_clock(lambda: function((1,), (32,), (), shared_mem=0)) for _ in range(rounds))
    return times[len(times) // 2]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """Holds the cubins until the process ends: CuPy reads the file again for each device."""
    return tempfile.TemporaryDirectory(prefix="workbench-speed-")
