"""The table: its rows, its columns, its document, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.metadata import version

import pytest

from workbench.errors import Refused
from workbench.speed import (
    COLUMNS,
    Kernel,
    cpu,
    cxx,
    kernels,
    lab,
    measure,
    nvrtc,
    on_gpu,
    parse_shape,
    record,
    to_records,
)
from workbench.speed.cpu import Rung
from workbench.speed.record import FORMAT
from workbench.speed.table import new_row
from workbench.speed.time import Candidate

CONTRACT = [
    "kernel",
    "device",
    "bits",
    "shape",
    "seconds",
    "baseline",
    "ratio",
]  # of `workbench speed --json`


TORCH = ["cpu-torch-fp32", "cpu-torch-bf16", "cpu-torch-int8", "cpu-torch-int4"]
NUMBA = ["cpu-numba-naive", "cpu-numba-reordered", "cpu-numba-tiled"]


@pytest.fixture(scope="module")
def on_cpu():
    return measure((33, 17, 70), "cpu-[tn][ouf]*", rounds=3, budget_s=1)


def test_the_frame_has_the_columns_of_the_contract(on_cpu):
    assert list(on_cpu.columns) == list(COLUMNS)
    assert set(CONTRACT) <= set(COLUMNS)


def test_the_cpu_kernels_are_measured_against_torch(on_cpu):
    rows = on_cpu.set_index("kernel")
    assert list(rows.index) == [*TORCH, *NUMBA, "cpu-nf4-dequant", "cpu-nf4-dot"]
    assert list(rows.bits) == [32, 16, 8, 4, 32, 32, 32, 4, 4]
    timed = rows[rows["where"] == "measured"]
    assert set(TORCH[:3] + NUMBA) <= set(timed.index)
    assert set(timed["shape"]) == {"33x17x70"}
    assert set(timed.baseline) == {"cpu-torch-fp32"}
    assert timed.ratio["cpu-torch-fp32"] == 1
    assert (timed.seconds > 0).all()
    assert (timed.ratio_q25 <= timed.ratio).all()
    assert (timed.ratio <= timed.ratio_q75).all()
    assert (timed.relative_error[NUMBA] < 1e-6).all()
    assert 1e-6 < timed.relative_error["cpu-torch-bf16"] < 1e-2


def test_a_shape_that_anothers_kernel_does_not_take_is_a_row_that_says_so(on_cpu):
    row = on_cpu.set_index("kernel").loc["cpu-torch-int4"]
    assert row["where"] == "skipped"
    assert row.note == "torch's 4-bit product takes N a multiple of 16 and K of 128; this is 17 x 70"


def test_torchs_products_of_few_bits_are_right_where_they_take_the_shape():
    rows = measure("3x32x256", "cpu-torch-int[48]", rounds=1, budget_s=1).set_index("kernel")
    assert set(rows["where"]) == {"measured"}
    # the weight's own error is ten times the kernel's, and is not charged to it
    assert rows.relative_error["cpu-torch-int4"] < 1e-2 < 5e-2 < rows.weight_error["cpu-torch-int4"]
    assert rows.weight_error["cpu-torch-int8"] < 2e-2


@pytest.mark.usefixtures("cpp")
def test_low_bit_kernels_are_measured_with_their_bandwidth_and_both_errors():
    rows = measure("2x64x256", "cpu-w4-*", rounds=1, budget_s=1).set_index("kernel")
    assert list(rows.index) == ["cpu-w4-dequant", "cpu-w4-dot", "cpu-w4-lut"]
    assert set(rows["where"]) == {"measured"}
    # codes, and a scale and a zero of 2 bytes for every 128 of them
    nbytes = 64 * 256 * (4 / 8 + 4 / 128)
    assert list(rows.gbps * rows.seconds) == pytest.approx([1e-9 * nbytes] * 3)
    assert (rows.relative_error < 1.5e-2).all()
    assert rows.weight_error.nunique() == 1
    assert 0.05 < rows.weight_error["cpu-w4-dot"] < 0.2
    assert (rows.seconds_hot > 0).all()
    assert (rows.of_bandwidth > 0).all()


def test_without_a_cpp_compiler_the_rows_say_how_to_get_one(monkeypatch):
    def missing(*_: object) -> None:
        raise nvrtc.NoCompiler(f"no C++ compiler here: {cxx.INSTALL} brings one")

    monkeypatch.setattr(cpu.cpp, "_library", missing)
    by = {row["kernel"]: row for row in to_records(measure("4x4x4", "cpu-[tw][o4]*", rounds=1, budget_s=1))}
    assert by["cpu-torch-fp32"]["where"] == "measured"
    assert by["cpu-torch-fp32"]["of_bandwidth"] > 0  # torch reads then
    assert by["cpu-w4-dot"]["where"] == "skipped"
    assert 'pip install "workbench[cpp]"' in by["cpu-w4-dot"]["note"]


def test_the_verdict_is_no_finer_than_the_baseline_against_itself(on_cpu):
    spread = on_cpu.attrs["runs"]["cpu"]["conditions"]["aa_spread"]
    for row in to_records(on_cpu):
        if row["where"] == "measured":
            differs = max(row["ratio"], 1 / row["ratio"]) - 1 > spread
            differs = differs and not row["ratio_q25"] <= 1 <= row["ratio_q75"]
            assert row["verdict"] == ("equal" if not differs else "faster" if row["ratio"] > 1 else "slower")


def test_gflops_and_seconds_agree(on_cpu):
    timed = on_cpu[on_cpu["where"] == "measured"]
    assert list(timed.gflops * timed.seconds) == pytest.approx([2e-9 * 33 * 17 * 70] * len(timed))


@pytest.mark.usefixtures("compiler", "no_gpu")
def test_without_a_gpu_the_cuda_kernels_are_compiled_and_have_no_time():
    frame = measure("8x8x8", "fp32_[nt]*")
    assert list(frame.kernel) == ["fp32_naive", "fp32_tiled"]
    assert set(frame["where"]) == {"compiled only"}
    assert frame.seconds.isna().all()
    assert list(frame.shared_bytes) == [0, 8192]
    assert list(frame.spills) == [0, 0]
    for row in frame.itertuples():
        assert row.note.startswith("no CUDA device here: compiled for sm_90, ")
        assert f"{row.registers} registers, no time" in row.note


@pytest.mark.usefixtures("no_gpu")
def test_without_the_compiler_the_row_says_how_to_get_it(monkeypatch):
    def missing() -> str:
        raise nvrtc.NoCompiler(f"no CUDA compiler here: {nvrtc.INSTALL}")

    monkeypatch.setattr(nvrtc, "find_nvrtc", missing)
    frame = measure("8x8x8", "fp32_naive")
    assert frame["where"][0] == "skipped"
    assert 'pip install "workbench[nvrtc]"' in frame.note[0]


@pytest.mark.usefixtures("compiler", "no_gpu")
def test_an_edited_kernel_that_does_not_compile_is_a_row_with_the_compilers_line():
    naive = kernels()["fp32_naive"]
    line = next(i for i, text in enumerate(naive.source.splitlines(), 1) if "float sum" in text)
    frame = measure(
        "8x8x8", Kernel.parse(naive.source.replace("float sum", "float sun"), where="fp32_naive.cu")
    )
    assert frame["where"][0] == "skipped"
    assert '"sum" is undefined' in frame.note[0]
    assert f"fp32_naive.cu:{line + 3}:" in frame.note[0]  # where it is used


@pytest.mark.usefixtures("no_gpu")
def test_a_shape_that_no_gpu_could_start_is_a_row_that_says_so():
    frame = measure("1x600000x1", "fp32_naive")
    assert frame["where"][0] == "skipped"
    assert "needs a grid of (1, 75000, 1)" in frame.note[0]


def test_a_glob_selects_kernels():
    assert list(measure("4x4x4", "cpu-numba*", rounds=1, budget_s=1).kernel) == NUMBA


def test_a_glob_that_matches_nothing_is_refused_with_near_names():
    with pytest.raises(Refused, match=r"'fp32_tile'.*near: fp32_tiled"):
        measure("4x4x4", "fp32_tile")


def test_a_cpu_kernel_that_does_not_write_is_a_row_without_a_time(monkeypatch):
    def lazy(sets) -> Candidate:
        right = cpu.rungs()["cpu-torch-fp32"].make(sets)
        return Candidate("cpu-lazy", lambda i: None, right.poison, right.output, right.tolerance)

    monkeypatch.setitem(cpu.REGISTERED, "cpu-lazy", Rung("cpu-lazy", 32, "", "", lazy))
    frame = measure("4x4x4", "cpu-lazy", rounds=1, budget_s=1)
    assert frame["where"][0] == "skipped"
    assert math.isnan(frame.seconds[0])
    assert "never written" in frame.note[0]


def test_a_product_that_would_take_too_long_is_skipped_before_it_starts():
    row = to_records(measure("512x512x512", "cpu-numba-tiled", rounds=1, budget_s=1e-6))[0]
    assert row["where"] == "skipped"
    assert row["note"].startswith("not timed: one product would take about 0.")


def test_progress_is_reported():
    seen = []
    measure("4x4x4", "cpu-numba-t*", rounds=1, budget_s=1, progress=lambda *told: seen.append(told))
    said = [what for *_, what in seen]
    tried = ["cpu-torch-fp32", "cpu-numba-tiled"]
    assert said[:4] == [
        *(f"compiling and trying {name}, {i} of 2" for i, name in enumerate(tried, 1)),
        *(f"checking {name}, {i} of 2" for i, name in enumerate(tried, 1)),
    ]
    # two kernels, each also with its operands in the cache, the baseline again, the bandwidth and the empty call:
    # warmed up and timed once
    assert len(said) == 4 + 14
    done, totals = [done for done, *_ in seen], {total for _, total, _ in seen}
    assert done == sorted(done)  # one bar for all parts, or the forecast of the time left would jump
    assert len(totals) == 1
    assert done[-1] < totals.pop()


@pytest.mark.usefixtures("no_gpu")
def test_what_compiles_is_said_before_it_compiles(monkeypatch):
    began: list[str] = []
    told: list[str] = []

    def compiled(shape, kernel, why):
        began.append(kernel.name)
        return new_row(shape, kernel.name, "none", 32, "", why)

    monkeypatch.setattr(on_gpu, "compile_only", compiled)
    measure("8x8x8", "fp32_n*,fp32_t*", progress=lambda done, total, what: told.append(what))
    assert told[0] == f"compiling {sorted(began)[0]}, 1 of {len(began)}"
    assert len(told) == len(began)


@pytest.mark.usefixtures("no_gpu")
def test_rows_are_given_as_they_become_known(monkeypatch):
    monkeypatch.setattr(
        on_gpu, "compile_only", lambda shape, kernel, why: new_row(shape, kernel.name, "none", 32, "", why)
    )
    given: list[list[dict]] = []
    frame = measure("8x8x8", "cpu-numba-*,fp32_n*", rounds=3, found=given.append)
    on_cpu = [rows for rows in given if rows[0]["kernel"].startswith("cpu-")]
    assert [rows[0]["rounds"] for rows in on_cpu] == [1, 2, 3]  # after every round
    assert all(row["relative_error"] is not None for row in on_cpu[0])
    newest = {row["kernel"]: row for rows in given for row in rows}
    assert list(newest) == frame["kernel"].tolist()
    for row in frame.to_dict("records"):
        assert newest[row["kernel"]]["where"] == row["where"]


def test_a_file_that_cannot_be_read_keeps_its_row_beside_those_of_the_cpu(monkeypatch):
    monkeypatch.setattr(lab, "unreadable", lambda wanted: {"cpu-broken": Refused("cpu-broken.cu:2: what")})
    frame = measure("4x4x4", "cpu-numba-t*,cpu-b*", rounds=1, budget_s=1)
    assert frame["kernel"].tolist() == ["cpu-broken", "cpu-numba-tiled"]


@pytest.mark.parametrize(("text", "shape"), [("4096x1x4096", (4096, 1, 4096)), (" 2 X 3×4", (2, 3, 4))])
def test_a_shape_is_read(text, shape):
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "4x4", "4x4x4x4", "4x0x4", "-1x4x4", "4x4xK", "1.5x4x4", "4,4,4"])
def test_a_shape_that_is_none_is_refused(text):
    with pytest.raises(Refused, match="MxNxK"):
        parse_shape(text)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4), (4, 4.5, 4)])
def test_a_bad_shape_in_numbers_is_refused_too(shape):
    with pytest.raises(Refused, match="MxNxK"):
        measure(shape, "cpu-torch-fp32")


def test_too_large_a_product_is_refused_before_it_starts():
    with pytest.raises(Refused, match="GB of memory"):
        measure("9999999x9999999x9999999", "cpu-*")


@pytest.mark.usefixtures("compiler", "no_gpu")
def test_what_is_only_compiled_needs_no_memory():
    frame = measure("99999x99999x999999", "fp32_naive")
    assert frame["where"][0] == "compiled only"


def test_a_weight_too_small_to_fill_the_cache_is_said_to_lie_in_it(monkeypatch):
    small = measure("1x16x128", "cpu-torch-fp32", rounds=1, budget_s=1)
    assert "operands partly in the cache" in small.note[0]
    monkeypatch.setattr(cpu.operands, "cache_bytes", lambda: 1 << 20)
    monkeypatch.setattr(cpu, "cache_bytes", lambda: 1 << 20)
    large = measure("1x512x512", "cpu-torch-fp32", rounds=1, budget_s=1)
    assert "cache" not in large.note[0]
    assert large.attrs["runs"]["cpu"]["footprints"]["cpu-torch-fp32"] == 3 << 20
    assert large.attrs["runs"]["cpu"]["conditions"]["cache_bytes"] == 1 << 20


def test_the_share_of_the_bandwidth_is_of_the_same_round(on_cpu):
    samples = on_cpu.attrs["runs"]["cpu"]["samples"]
    row = to_records(on_cpu)[0]
    nbytes = row["gbps"] * row["seconds"] * 1e9
    read_bytes = 3 * cpu.cache_bytes() // 256 * 256
    rounds = zip(samples["read bandwidth"]["seconds"], samples[row["kernel"]]["seconds"], strict=True)
    shares = sorted(nbytes / own * alone / read_bytes for alone, own in rounds)
    assert row["of_bandwidth"] == pytest.approx(shares[1])


@pytest.mark.usefixtures("no_gpu")
def test_records_are_json_without_nan(on_cpu):
    rows = to_records(on_cpu) + to_records(measure("4x4x4", "fp32_naive"))
    json.dumps({"kernels": rows}, allow_nan=False)
    assert rows[-1]["seconds"] is None
    assert type(rows[0]["bits"]) is int
    assert rows[0]["registers"] is None


def test_a_record_says_what_ran_where_and_when(on_cpu, tmp_path):
    text = record(on_cpu, tmp_path / "run.json").read_text()
    document = json.loads(text)
    assert [row["kernel"] for row in document["kernels"]] == list(on_cpu.kernel)
    assert all(row["source_hash"] for row in document["kernels"])
    assert document["format"] == FORMAT
    assert document["machine"].keys() >= {"cpu", "path", "threads", "cache_bytes", "device", "driver"}
    assert document["machine"]["cache_bytes"] == cpu.cache_bytes()
    assert document["versions"].keys() >= {"python", "torch", "numpy", "cupy"}
    assert document["versions"]["workbench"] == version("workbench")
    assert document["date"].endswith("+00:00")


def test_a_record_has_every_sample_and_what_the_machine_was_doing(on_cpu, tmp_path):
    document = json.loads(record(on_cpu, tmp_path / "run.json").read_text())
    run = document["runs"]["cpu"]
    for row in document["kernels"]:
        if row["where"] == "measured":
            samples = run["samples"][row["kernel"]]
            assert len(samples["seconds"]) == len(samples["ratio"]) == row["rounds"] == 3
            assert sorted(samples["seconds"])[1] == row["seconds"]
            assert sorted(samples["ratio"])[1] == row["ratio"]
    assert run["samples"].keys() >= {"cpu-torch-fp32 again", "cpu-torch-fp32 hot"}
    assert len(run["conditions"]["clocks"]) == 3
    assert run["conditions"]["read_gbps"] > 0.1
    assert 0 < run["conditions"]["empty_s"] < 1e-3


def test_a_record_that_cannot_be_written_leaves_the_old_one(on_cpu, tmp_path, monkeypatch):
    record(on_cpu, tmp_path / "run.json")
    before = (tmp_path / "run.json").read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(Refused, match=r"run\.json: .*No space left"):
        record(on_cpu, tmp_path / "run.json")
    assert (tmp_path / "run.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    with pytest.raises(Refused, match="No such file"):
        record(on_cpu, tmp_path / "nowhere" / "run.json")


def test_importing_the_room_imports_nothing_heavy():
    heavy = ["torch", "transformers", "pandas", "numba", "cupy"]
    code = f"import sys, workbench.speed; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.gpu
def test_on_a_gpu_the_cuda_kernels_are_timed_against_cublas(gpu):
    frame = measure("129x257x65", "fp32_*", rounds=3)
    assert set(frame["where"]) == {"measured"}
    assert set(frame.baseline) == {"cublas-fp32"}
    assert set(frame.device) == {gpu.name}
    assert (frame.relative_error < 1e-6).all()


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_the_tiled_kernel_beats_the_naive_one():
    frame = measure("2048x2048x2048", "fp32_*").set_index("kernel")
    assert frame.ratio["fp32_tiled"] > frame.ratio["fp32_naive"]
    assert frame.baseline["fp32_tiled"] == "cublas-fp32"
