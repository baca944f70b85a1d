"""The path through CuPy, with a stand-in for CuPy made of NumPy: which kernel is launched how, against what.

What only a GPU can tell (that the code loads, its results, its times) is left to the tests marked `gpu`.
"""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workbench.errors import Refused
from workbench.grid import Scheme
from workbench.grid.grids import IntGrid
from workbench.grid.inputs import InputQuantizer
from workbench.speed import (
    Kernel,
    by_gemlite,
    by_triton,
    check,
    cuda,
    kernels,
    measure,
    ops,
    run_layer,
    tma,
    vendor,
)
from workbench.speed.cpu.operands import quantized
from workbench.speed.kernel import TensorMap
from workbench.speed.pack import cuda as gpu_pack


class Event:
    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


class RawModule:
    """Computes with NumPy what the kernels compute; `launches` holds (name, grid, block, shared bytes)."""

    launches: list[tuple] = []
    wrong = False

    def __init__(self, *, path: str):
        with open(path, "rb") as cubin:
            assert cubin.read(4) == b"\x7fELF"

    def get_function(self, name: str):
        if name == "nothing":
            return lambda grid, block, arguments, *, shared_mem: None
        kernel = kernels()[name]

        def launch(grid, block, arguments, *, shared_mem: int) -> None:
            *operands, M, N, K = arguments
            # A Python int would be passed as 64 bits.
            assert all(isinstance(size, np.int32) for size in (M, N, K))
            self.launches.append((name, grid, block, shared_mem))
            self.launches[-1] += (tuple(getattr(operand, "shape", ()) for operand in operands),)
            given = dict(zip(kernel.operands, operands, strict=True))
            shapes = ops.OPS[kernel.op].shapes(int(M), int(N), int(K))
            if not kernel.maps:
                dense = unpacked(kernel, given, int(N), int(K))
                for operand, dtype in kernel.operands.items():
                    if operand in shapes and operand not in {*kernel.outputs, *dense}:
                        last = shapes[operand][-1]
                        dense[operand] = ops.DTYPES[dtype].decode(
                            np.ascontiguousarray(given[operand][..., :last])
                        )
                for output, values in ops.OPS[kernel.op].reference(dense, None).items():
                    encode = ops.DTYPES[kernel.operands[output]].encode
                    given[output][...] = encode(values * (1 + self.wrong))

        return Function(launch)


def unpacked(kernel: Kernel, given: dict, N: int, K: int) -> dict[str, np.ndarray]:
    """The dense values of the operand that a packing made, from nothing but what the kernel is given."""
    if kernel.packing == "none":
        return {}
    if kernel.packing == "2:4":
        kept = np.ascontiguousarray(given["A"][:, : -(-K // 32) * 16])
        return {"A": ops.bf16_decode(gpu_pack.unpack_sparse(kept, given["E"], K))}
    layout = gpu_pack.LAYOUTS[kernel.packing.rpartition("-")[0]]
    scale = given["S"].astype(float).reshape(N, -1)
    group = next(g for g in gpu_pack.GROUPS if -(-K // g) == scale.shape[1])  # as the source was made for
    values = layout.unpack(given["W"], N, K).astype(float)
    if layout.table:
        values = given["T"][values.astype(int)]
    else:
        zero = given["Z"].astype(float).reshape(*scale.shape, -1)
        zero = -1024 - zero[..., 0] - zero[..., 1] if layout.split else zero[..., 0]
        values = values - zero.repeat(group, 1)[:, :K]
    return {"W": values * scale.repeat(group, 1)[:, :K]}


class Function:
    max_dynamic_shared_size_bytes = 0

    def __init__(self, launch):
        self.launch = launch

    def __call__(self, *arguments, **named) -> None:
        assert named["shared_mem"] <= max(self.max_dynamic_shared_size_bytes, 48 << 10)
        self.launch(*arguments, **named)


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy with one device, an H100 by its properties."""
    runtime = SimpleNamespace(
        CUDARuntimeError=RuntimeError,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda _: {"name": b"Stand-in", "major": 9, "minor": 0, "l2CacheSize": 1000},
        driverGetVersion=lambda: 13010,
    )
    fake = SimpleNamespace(
        cuda=SimpleNamespace(
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=RuntimeError),
            memory=SimpleNamespace(OutOfMemoryError=MemoryError),
            Device=lambda: SimpleNamespace(id=0),
            Event=Event,
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
            get_elapsed_time=lambda start, stop: 1e3 * (stop.at - start.at),
        ),
        RawModule=RawModule,
        asnumpy=np.asarray,
        **{name: getattr(np, name) for name in ("float32", "empty", "matmul", "asarray", "copyto")},
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(RawModule, "launches", [])
    for others in (by_triton, by_gemlite):  # whether they are installed here must not matter to these tests
        monkeypatch.setattr(others, "baselines", lambda sets: [])
    return fake


@pytest.mark.usefixtures("cupy")
def test_the_device_is_described():
    device, _ = cuda.find_device()
    assert device == cuda.Device("Stand-in", "sm_90", "13.1", 1000)


def test_no_device_is_said_and_not_raised(cupy):
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert cuda.find_device() == (None, "no CUDA device here")

    def fail() -> int:
        raise RuntimeError("driver too old")

    cupy.cuda.runtime.getDeviceCount = fail
    assert cuda.find_device() == (None, "no CUDA device here (driver too old)")


def test_without_cupy_a_gpu_is_still_mentioned(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(cuda.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "workbench[cuda13]" in cuda.find_device()[1]


@pytest.mark.usefixtures("cupy", "compiler")
def test_each_kernel_runs_its_own_launch_against_cublas():
    frame = measure("33x65x70", "fp32_*", rounds=3)
    names = [name for name in kernels() if name.startswith("fp32_")]
    assert list(frame.kernel) == [*names, "cublas-fp32"]
    assert set(frame["where"]) == {"measured"}
    assert set(frame.baseline) == {"cublas-fp32"}
    assert frame.ratio[len(names)] == 1
    assert set(frame.bits) == {32}
    assert set(frame.device) == {"Stand-in"}
    assert frame.shared_bytes[names.index("fp32_tiled")] == 8192
    wanted = {(name, *kernels()[name].launch(33, 65, 70)) for name in names}
    assert {launch[:4] for launch in RawModule.launches} == wanted


def gemm(a, b, c, dtype, result) -> None:
    """What cublasGemmEx does, in NumPy."""
    decode = ops.DTYPES[dtype].decode
    c[...] = ops.DTYPES[result].encode((decode(a) @ decode(b).T).astype(np.float32))


@pytest.mark.usefixtures("cupy", "compiler")
def test_kernels_of_other_types_have_their_own_baseline(monkeypatch):
    monkeypatch.setattr(vendor, "gemm", gemm)
    frame = measure("33x65x70", "bf16_mma*", rounds=1)
    assert set(frame.baseline) == {"cublas-bf16"}
    assert set(frame["where"]) == {"measured"}
    assert frame.relative_error.max() < 1e-6
    # Rows of 70 elements of bf16 are 140 bytes; this kernel wants them at multiples of 16.
    assert {launch[4] for launch in RawModule.launches} == {((33, 72), (65, 72), (33, 65))}


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_package_that_is_not_installed_is_a_row_that_says_so(monkeypatch):
    def refuse():
        raise Refused("triton is not installed: pip install triton")

    monkeypatch.setattr(vendor, "gemm", gemm)
    monkeypatch.setattr(by_triton, "baselines", lambda sets: [("triton-fp16", refuse)])
    frame = measure("3x40x256", "w4_mma,w4_naive", rounds=1).set_index("kernel")
    assert frame["where"].to_dict() == {
        "w4_mma": "measured",
        "w4_naive": "measured",
        "cublas-fp16": "measured",
        "triton-fp16": "skipped",
    }
    assert frame.note["triton-fp16"] == "triton is not installed: pip install triton"
    assert frame.bits["triton-fp16"] == 16


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_family_without_a_baseline_costs_the_others_nothing(monkeypatch):
    def refuse(a, b, c, dtype, result) -> None:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    monkeypatch.setattr(vendor, "gemm", refuse)
    frame = measure("8x8x8", "*_naive*", rounds=1).set_index("kernel")
    assert frame["where"]["fp32_naive"] == "measured"
    assert frame["where"]["rational_naive"] == "measured"
    assert frame.gflops["rational_naive"] * frame.seconds["rational_naive"] * 1e9 == pytest.approx(21 * 8 * 8)
    assert frame["where"]["w4_naive"] == "skipped"
    assert "cublas-fp16 does not take this product: CUBLAS_STATUS_NOT_SUPPORTED" in frame.note["w4_naive"]


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_padded_copy_is_made_only_where_it_differs(monkeypatch):
    sets = cuda.operand_sets(kernels()["bf16_mma"], (8, 16, 64), cuda.find_device()[0])
    assert sets.array(0, "A", 16) is sets.array(0, "A", 0)
    odd = cuda.operand_sets(kernels()["bf16_mma"], (8, 16, 63), cuda.find_device()[0])
    assert odd.array(0, "A", 16).shape == (8, 64)
    assert odd.array(0, "A", 0).shape == (8, 63)
    # three times a cache of 1000 bytes
    assert odd.count == -(-3000 // (2 * 63 * (8 + 16)))


@pytest.mark.usefixtures("cupy", "compiler")
def test_tma_descriptors_say_axes_pitch_box_and_swizzle(monkeypatch):
    asked: list[tuple] = []

    class Driver:
        @staticmethod
        def cuTensorMapEncodeTiled(*arguments) -> int:
            asked.append(arguments)
            return 0

    monkeypatch.setattr(tma, "_driver", Driver)
    described = tma.tensor_map(4096, "bf16", (33, 70), 144, TensorMap("A", 128, 64))
    to, dtype, axes, at, sizes, pitches, box, steps, interleave, swizzle, promotion, fill = asked[0]
    assert to.value % 64 == 0
    assert described.nbytes == 128
    assert (dtype, axes, at.value, list(sizes), list(pitches)) == (9, 2, 4096, [70, 33], [144])
    assert (list(box), list(steps), interleave, swizzle, promotion, fill) == ([64, 128], [1, 1], 0, 3, 2, 0)
    monkeypatch.setattr(Driver, "cuTensorMapEncodeTiled", staticmethod(lambda *arguments: 1))
    with pytest.raises(Refused, match="A 33x70: the driver makes no TMA descriptor"):
        tma.tensor_map(4096, "bf16", (33, 70), 140, TensorMap("A", 128, 64))


def test_an_architecture_that_does_not_run_a_kernel_is_said_with_what_would(cupy):
    old = cuda.Device("Old card", "sm_80", "13.0", 1000)
    with pytest.raises(
        Refused, match=r"bf16_wgmma needs sm_90a; Old card is sm_80; .*bf16_mma_stages.* would"
    ):
        cuda._architecture(kernels()["bf16_wgmma"], old)
    with pytest.raises(Refused, match=r"bf16_mma needs sm_80 or newer; Old card is sm_75"):
        cuda._architecture(kernels()["bf16_mma"], cuda.Device("Old card", "sm_75", "13.0", 1000))
    assert cuda._architecture(kernels()["bf16_wgmma"], cuda.Device("New", "sm_90", "13.0", 1000)) == "sm_90a"
    assert cuda._architecture(kernels()["bf16_mma"], cuda.Device("New", "sm_90", "13.0", 1000)) == "sm_90"


def edited() -> Kernel:
    return Kernel.parse(kernels()["fp32_naive"].source, where="edited.cu")


@pytest.mark.usefixtures("cupy", "compiler")
@pytest.mark.parametrize(
    ("child", "says"),
    [
        ("raise SystemExit('illegal address')", "crashes on this GPU: illegal address"),
        ("import os; os.abort()", "crashes on this GPU: status -6"),
    ],
)
def test_an_edited_kernel_that_crashes_is_a_row_and_no_more(child, says, monkeypatch, tmp_path):
    (tmp_path / "child.py").write_text(child)
    monkeypatch.setattr(cuda, "CHILD", tmp_path / "child.py")
    frame = measure("8x8x8", edited(), rounds=1)
    assert frame["where"][0] == "skipped"
    assert says in frame.note[0]
    assert not RawModule.launches


def test_an_edited_kernel_that_hangs_is_stopped(monkeypatch, tmp_path):
    (tmp_path / "child.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(cuda, "CHILD", tmp_path / "child.py")
    began = time.monotonic()
    assert (
        cuda.rehearse(edited(), (8, 8, 8), timeout_s=0.5) == "hangs on this GPU: it was stopped after 0.5 s"
    )
    assert time.monotonic() - began < 10


def test_the_process_of_a_rehearsal_starts_and_says_why_it_cannot():
    if cuda.find_device()[0]:
        assert cuda.rehearse(edited(), (8, 8, 8)) == ""
    else:
        assert cuda.rehearse(edited(), (8, 8, 8)).startswith("crashes on this GPU: ")
        assert cuda.find_device()[1] in cuda.rehearse(edited(), (8, 8, 8))


@pytest.mark.usefixtures("cupy", "compiler")
def test_what_the_device_does_not_start_is_a_row(monkeypatch):
    class Small(Function):
        @property
        def max_dynamic_shared_size_bytes(self) -> int:
            return 48 << 10

        @max_dynamic_shared_size_bytes.setter
        def max_dynamic_shared_size_bytes(self, size: int) -> None:
            raise RuntimeError("invalid argument")

        def __call__(self, *arguments, **named) -> None:
            raise RuntimeError("too many resources requested")

    monkeypatch.setattr(sys.modules[__name__], "Function", Small)
    monkeypatch.setattr(vendor, "gemm", gemm)
    large, small = measure("33x65x70", "bf16_mma_s*", rounds=1), measure("8x8x8", "fp32_naive", rounds=1)
    assert (
        "98304 bytes of shared memory per block, more than Stand-in has (invalid argument)" in large.note[0]
    )
    assert "does not start (1, 1, 1) blocks of (32, 8, 1): too many resources requested" in small.note[0]
    assert (large["where"][0], small["where"][0]) == ("skipped", "skipped")


@pytest.mark.usefixtures("cupy", "compiler")
def test_an_empty_launch_is_timed():
    device, _ = cuda.find_device()
    assert 0 < cuda.empty_seconds(device) < 1
    runs = measure("8x8x8", "fp32_naive", rounds=1).attrs["runs"]
    assert 0 < runs["gpu cublas-fp32"]["conditions"]["empty_s"] < 1


class Stream:
    """Captures: while it is the current stream, launches are kept and not run. `holds`: whether the graph has them."""

    holds = True
    kept: list | None = None

    def __init__(self, *, non_blocking: bool):
        assert non_blocking  # a blocking one would make the legacy stream's work an error

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin_capture(self) -> None:
        Stream.kept = []

    def end_capture(self):
        kept, Stream.kept = Stream.kept or [], None
        return SimpleNamespace(launch=lambda: [work() for work in kept if self.holds])


class InStream(Function):
    def __call__(self, *arguments, **named) -> None:
        if Stream.kept is None:
            super().__call__(*arguments, **named)
        else:
            Stream.kept.append(lambda: super(InStream, self).__call__(*arguments, **named))


@pytest.mark.usefixtures("compiler")
def test_short_kernels_are_captured_and_a_graph_that_holds_nothing_is_not_believed(cupy, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "Function", InStream)
    kernel, device = kernels()["fp32_naive"], cuda.find_device()[0]
    candidate, _ = cuda.candidate(kernel, cuda.operand_sets(kernel, (8, 8, 8), device), device)
    assert cuda.captured(candidate, 3) is None  # a CuPy without graphs
    cupy.cuda.Stream = Stream
    work = cuda.captured(candidate, 3)
    assert work is not None
    candidate.poison()
    before = len(RawModule.launches)
    work()
    assert len(RawModule.launches) == before + 3
    assert np.isfinite(candidate.output()).all()
    assert cuda.captured(replace(candidate, capturable=False), 3) is None
    monkeypatch.setattr(Stream, "holds", False)
    assert cuda.captured(candidate, 3) is None


def test_inside_of_a_graph_cublas_is_asked_itself_for_the_same_product(cupy, monkeypatch):
    asked: dict[str, tuple] = {}

    def refuse(*arguments) -> None:
        asked["cupy"] = arguments
        raise NotImplementedError("calling cuBLAS API during stream capture")

    library = SimpleNamespace(
        cublasSetStream_v2=lambda *arguments: asked.update(stream=arguments) or 0,
        cublasSetWorkspace_v2=lambda *arguments: 0,
        cublasGemmEx=lambda *arguments: asked.update(gemm=arguments) or asked["status"],
    )
    array = lambda at, *shape: SimpleNamespace(data=SimpleNamespace(ptr=at), shape=shape)  # noqa: E731
    modules = {
        "cupy.cuda.device": SimpleNamespace(get_cublas_handle=lambda: 77),
        "cupy_backends.cuda.libs": SimpleNamespace(cublas=SimpleNamespace(gemmEx=refuse)),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vendor, "_cublas_library", lambda: (library, array(4096)))
    cupy.cuda.get_current_stream = lambda: SimpleNamespace(ptr=9)
    asked["status"] = 0
    vendor.gemm(array(1, 33, 70), array(2, 65, 70), array(3, 33, 65), "fp16", "fp16")
    assert [one.value for one in asked["gemm"]] == [*asked["cupy"]]
    assert [one.value for one in asked["stream"]] == [77, 9]
    # addresses are 64 bits wide, everything else is an int
    wide = [i for i, one in enumerate(asked["gemm"]) if isinstance(one, ctypes.c_void_p)]
    assert wide == [0, 6, 7, 10, 13, 14]
    asked["status"] = 15
    with pytest.raises(RuntimeError, match="status 15"):
        vendor.gemm(array(1, 33, 70), array(2, 65, 70), array(3, 33, 65), "fp16", "fp16")


@pytest.mark.usefixtures("cupy")
def test_what_cannot_be_captured_ends_the_capture(cupy):
    cupy.cuda.Stream = Stream
    kernel, device = kernels()["fp32_naive"], cuda.find_device()[0]
    baseline = dict(vendor.baselines(cuda.operand_sets(kernel, (8, 8, 8), device)))["cublas-fp32"]()

    def refuse(i: int) -> None:
        raise NotImplementedError("calling cuBLAS API during stream capture")

    assert cuda.captured(replace(baseline, run=refuse), 3) is None
    assert Stream.kept is None


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_wrong_kernel_is_a_row_without_a_time(monkeypatch):
    monkeypatch.setattr(RawModule, "wrong", True)
    frame = measure("8x8x8", "fp32_naive", rounds=1)
    assert frame["where"][0] == "skipped"
    assert "wrong, relative error 1 " in frame.note[0]


def test_a_baseline_in_tf32_is_refused(cupy):
    def tf32(a, b, *, out) -> None:
        np.matmul(a * np.float32(1 + 3e-4), b, out=out)

    cupy.matmul = tf32
    with pytest.raises(Refused, match="CUPY_TF32"):
        measure("8x8x8", "fp32_naive", rounds=1)


def test_a_product_that_does_not_fit_the_device_is_refused(cupy):
    def full(*arguments):
        raise MemoryError("out of memory allocating 3 bytes")

    cupy.asarray = full
    with pytest.raises(Refused, match="8x8x8 does not fit Stand-in"):
        measure("8x8x8", "fp32_naive")


@pytest.mark.usefixtures("cupy")
def test_kernels_are_grouped_by_what_they_compute():
    groups = [[kernel.name for kernel in family] for family in cuda.families(list(kernels().values()))]
    together = next(group for group in groups if "bf16_wmma" in group)
    assert "bf16_wgmma" in together
    assert {"sparse_mma", "sparse_dense"} <= set(together)  # a packed operand beside its plain twin
    assert "fp32_naive" not in together
    weights = next(group for group in groups if "w4_naive" in group)
    assert weights[0] == "fp16_gemv"  # not packed: its operands are the baseline's
    assert set(weights) == {name for name, one in kernels().items() if one.op == ops.LAYER}
    assert ["rational_columns", "rational_naive", "rational_terms"] in groups
    assert sorted(name for group in groups for name in group) == sorted(kernels())


@pytest.mark.usefixtures("cupy", "compiler")
def test_weights_of_every_packing_share_a_run_with_the_dense_product(monkeypatch):
    asked: list[np.ndarray] = []

    def watched(a, b, c, dtype, result) -> None:
        asked.append(b)
        gemm(a, b, c, dtype, result)

    monkeypatch.setattr(vendor, "gemm", watched)
    names = ["fp16_gemv", "w4_naive", "w4_vector", "nf4_registers", "w3_split_k"]
    frame = measure("2x33x300", ",".join(names), rounds=1)
    assert set(frame.kernel) == {*names, "cublas-fp16"}
    assert set(frame["where"]) == {"measured"}, list(frame.note)
    assert set(frame.baseline) == {"cublas-fp16"}
    assert frame.set_index("kernel").bits["cublas-fp16"] == 16
    assert frame.relative_error.max() < 1e-3
    assert list(frame.attrs["runs"]) == ["gpu cublas-fp16"]
    assert set(names) < set(frame.attrs["runs"]["gpu cublas-fp16"]["samples"])
    plain = ops.problem(ops.LAYER, kernels()["fp16_gemv"].operands, (2, 33, 300)).inputs["W"]
    assert (asked[0][:, :300] == plain).all()  # the baseline's weight is the one that nobody rounded to codes


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_sparse_product_stands_beside_its_dense_twin(monkeypatch):
    monkeypatch.setattr(vendor, "gemm", gemm)
    frame = measure("33x40x70", "sparse_*", rounds=1)
    assert set(frame["where"]) == {"measured"}, list(frame.note)
    samples = frame.attrs["runs"]["gpu cublas-bf16"]["samples"]
    assert {"sparse_dense", "sparse_mma"} < set(samples)


@pytest.mark.usefixtures("cupy", "compiler")
def test_runs_with_one_baseline_are_kept_apart():
    frame = measure("8x8x8", "rational_naive,rational_backward", rounds=1)
    assert list(frame.attrs["runs"]) == ["gpu copy", "gpu copy (rational-forward)"]


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_packing_that_does_not_fit_the_device_costs_the_others_nothing(cupy, monkeypatch):
    whole = cupy.asarray

    def small(array):
        if array.dtype == np.uint32 and array.size == 33 * 32:  # the words of w3-lanes
            raise MemoryError("out of memory")
        return whole(array)

    cupy.asarray = small
    monkeypatch.setattr(vendor, "gemm", gemm)
    words = ops.problem(ops.LAYER, kernels()["w2_split_k"].operands, (2, 33, 300), packing="w2-lanes-128")
    assert words.inputs["W"].size == 33 * 32
    frame = measure("2x33x300", "w4_naive,w2_split_k", rounds=1).set_index("kernel")
    assert frame["where"]["w4_naive"] == "measured"
    assert "2x33x300 does not fit Stand-in" in frame.note["w2_split_k"]


def scale(whole, token, channel, y, result) -> None:
    """What the elementwise kernel after cublasGemmEx does, in NumPy."""
    y[...] = whole * token[:, None] * channel


@pytest.mark.usefixtures("cupy", "compiler")
def test_whole_numbers_with_scales_meet_cublas_that_scales_and_the_product_in_halves(monkeypatch):
    monkeypatch.setattr(vendor, "gemm", gemm)
    monkeypatch.setattr(vendor, "_scale", scale)
    frame = measure("33x40x70", "w8a8_mma", rounds=1)
    assert frame["where"][0] == "measured", frame.note[0]
    assert frame.baseline[0] == "cublas-int8-scaled"
    assert 1e-5 < frame.relative_error[0] < 5e-4  # rounded to fp16 once
    assert {"cublas-int8-scaled", "cublas-fp16"} < set(
        frame.attrs["runs"]["gpu cublas-int8-scaled"]["samples"]
    )
    monkeypatch.setattr(
        vendor, "_scale", lambda whole, token, channel, y, result: scale(whole, token, 2 * channel, y, result)
    )
    with pytest.raises(Refused, match="the baseline itself fails"):
        measure("33x40x70", "w8a8_mma", rounds=1)


@pytest.mark.usefixtures("cupy")
def test_torchs_way_to_whole_numbers_with_scales_is_right():
    sets = cuda.operand_sets(kernels()["w8a8_mma"], (33, 40, 70), cuda.find_device()[0])
    assert check(vendor._torch(sets, "torch-int8-scaled"), sets.expected) < 1e-3
    few = cuda.operand_sets(kernels()["w8a8_mma"], (33, 40, 70), cuda.find_device()[0])
    few.problem.inputs["SX"][3] *= 2  # a scale that is not the reference's
    with pytest.raises(Refused, match="wrong"):
        check(vendor._torch(few, "torch-int8-scaled"), few.expected)


def test_torchs_int4_operands_stand_for_the_weight():
    w = np.random.default_rng(3).standard_normal((8, 256), np.float32)
    weight = quantized(w, "int4")
    nibbles, steps = vendor.int4_operands(weight)
    codes = np.stack([nibbles >> 4, nibbles & 15], -1).reshape(8, 256).astype(float)
    scale, offset = (steps[..., i].T.repeat(128, 1) for i in (0, 1))
    np.testing.assert_allclose((codes - 8) * scale + offset, weight.dequantize(), atol=1e-5)


@pytest.mark.usefixtures("cupy")
def test_torchs_int4_is_checked_and_refuses_what_it_does_not_take(monkeypatch):
    sets = cuda.operand_sets(kernels()["fp16_gemv"], (2, 16, 256), cuda.find_device()[0])
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    given: list[torch.Tensor] = []

    class Aten:
        off = 0.0

        @staticmethod
        def _convert_weight_to_int4pack(nibbles, tiles):
            given.append(nibbles)
            return nibbles

        @classmethod
        def _weight_int4pack_mm(cls, x, packed, group, qparams):
            codes = torch.stack([packed >> 4, packed & 15], -1).flatten(1).float()
            scale, offset = (qparams[..., i].float().T.repeat_interleave(group, 1) for i in (0, 1))
            return (x.float() @ ((codes - 8) * scale + offset).T + cls.off).bfloat16()

    monkeypatch.setattr(torch, "ops", SimpleNamespace(aten=Aten))
    made = vendor._torch_int4(sets)
    assert check(made, made.expected) < 2e-2
    assert given[0].shape == (16, 128)
    monkeypatch.setattr(Aten, "off", 5.0)
    with pytest.raises(Refused, match="torch-int4: the result is wrong"):
        check(made, made.expected)
    odd = cuda.operand_sets(kernels()["fp16_gemv"], (2, 16, 200), cuda.find_device()[0])
    with pytest.raises(Refused, match="takes N a multiple of 8 and K of 128; this is 16 x 200"):
        vendor._torch_int4(odd)


LAYER_W = torch.from_numpy(np.random.default_rng(11).standard_normal((45, 200), np.float32))


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_compressed_layer_is_timed_on_the_gpu(monkeypatch):
    monkeypatch.setattr(vendor, "gemm", gemm)
    compressed = Scheme(bits=4, group_size=64).quantize(LAYER_W)
    frame = run_layer(compressed, batch=3, kernel="*4_*", rounds=1, budget_s=1, original=LAYER_W)
    assert set(frame.kernel) == {"cublas-fp16", *(name for name in kernels() if name.startswith("w4_"))}
    assert set(frame["where"]) == {"measured"}, list(frame.note)
    assert set(frame.baseline) == {"cublas-fp16"}
    # rounding the inputs and scales to fp16 is the kernel's; a tenth that 4 bits lose is the weights'
    assert 1e-4 < frame.relative_error.min() <= frame.relative_error.max() < 1e-3
    assert frame.weight_error.nunique() == 1
    assert 0.05 < frame.weight_error[0] < 0.2
    assert "gpu cublas-fp16" in frame.attrs["runs"]


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_layer_in_whole_numbers_is_timed_beside_the_weight_only_kernel(monkeypatch):
    monkeypatch.setattr(vendor, "gemm", gemm)
    monkeypatch.setattr(vendor, "_scale", scale)
    compressed = replace(
        Scheme(bits=8, granularity="channel", symmetric=True).quantize(LAYER_W),
        inputs=InputQuantizer(IntGrid(bits=8, signed=True)),
    )
    frame = run_layer(compressed, batch=3, kernel="w8*", rounds=1, budget_s=1).set_index("kernel")
    assert set(frame["where"]) == {"measured"}, list(frame.note)
    assert frame.baseline["w8a8_mma"] == "cublas-int8-scaled"
    assert frame.baseline["w8_gemv"] == "cublas-fp16"
    assert frame.relative_error["w8a8_mma"] < 1e-2
    assert frame.note.str.contains("quantized before (a8 token)", regex=False).all()


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_wrong_kernel_is_seen_on_a_layer_too(monkeypatch):
    monkeypatch.setattr(vendor, "gemm", gemm)
    monkeypatch.setattr(RawModule, "wrong", 0.01)
    compressed = Scheme(bits=4, group_size=64).quantize(LAYER_W)
    frame = run_layer(compressed, batch=3, kernel="w4_naive", rounds=1, budget_s=1)
    assert frame["where"][0] == "skipped"
    assert "wrong, relative error 0.01 " in frame.note[0]


@pytest.mark.usefixtures("cupy", "compiler")
def test_inputs_that_fp16_does_not_hold_are_rows_that_say_so(monkeypatch):
    monkeypatch.setattr(vendor, "gemm", gemm)
    compressed = Scheme(bits=4, group_size=64).quantize(LAYER_W)
    frame = run_layer(compressed, x=torch.full((1, 200), 1e6), kernel="w4_naive", rounds=1, budget_s=1)
    assert frame["where"][0] == "skipped"
    assert "an element of X is not finite in fp16: 1e+06 is too large" in frame.note[0]


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(kernels()))
def test_every_kernel_is_right_on_the_gpu(name, gpu):
    kernel = kernels()[name]
    if not any(kernel.runs_on(arch) for arch in (gpu.arch, f"{gpu.arch}a")):
        pytest.skip(f"{kernel.name} is for {kernel.architecture}, {gpu.name} is {gpu.arch}")
    for shape in [(256, 256, 256), (33, 65, 70), (130, 270, 461)]:
        sets = cuda.operand_sets(kernel, shape, gpu)
        candidate, _ = cuda.candidate(kernel, sets, gpu)
        assert check(candidate, sets.expected) <= candidate.tolerance
