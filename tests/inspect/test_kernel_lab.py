"""The kernel lab without a browser: build, edit, emulate, time, draw, and code that makes it again."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import kernel_lab
from workbench.inspect.kernel_lab import FIGURES, KernelLab
from workbench.jobs import Cancelled, Job
from workbench.speed import CompileError, Kernel, NoCompiler, build, cuda, cxx, fuzz, kernels, nvrtc, sass
from workbench.speed.ladder import ladders
from workbench.speed.recorded import Recorded
from workbench.speed.table import COLUMNS, to_frame


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "find_device", lambda: (None, "no CUDA device here"))


@pytest.fixture
def compiler():
    try:
        nvrtc.find_nvrtc()
        sass.find_nvdisasm()
    except Refused as error:
        pytest.skip(str(error))


@pytest.fixture
def cpp():
    try:
        cxx.find_compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture
def lab():
    return KernelLab("fp32_tiled", small=(33, 40, 40))


def line_of(lab, text):
    return next(n for n, line in enumerate(lab.source.split("\n"), 1) if text in line)


def test_it_is_a_name_of_the_package():
    assert wb.KernelLab is KernelLab


@pytest.mark.usefixtures("compiler")
def test_a_build_knows_resources_machine_code_and_occupancy(lab):
    built = lab.build()
    assert built.error == built.note == ""
    assert 0 < built.resources["registers"] <= built.resources["budget"]
    assert built.resources["shared_bytes"] == 2 * 4 * 32 * 32
    assert built.resources["spill_bytes"] == 0
    assert built.missing == ()
    assert built.occupancy.blocks == 2
    assert lab.build() is built
    lab.arch = "sm_80"
    assert lab.build().arch == "sm_80"


@pytest.mark.usefixtures("compiler")
def test_the_table_has_a_row_for_each_line_that_became_instructions(lab):
    table = lab.table
    assert table["instructions"].sum() == len(lab.build().listing.instructions)
    inner = table.set_index("line").loc[line_of(lab, "sum +=")]
    assert inner["float"] == 32
    assert "sum +=" in inner["source"]
    assert table["live"].max() <= lab.build().resources["registers"]


@pytest.mark.usefixtures("compiler")
def test_what_is_wrong_is_an_answer_with_its_line(lab):
    line = line_of(lab, "sum +=")
    lab.edit((line, line, "            sum += nothing;"))
    built = lab.build()
    assert built.compiled is None
    assert built.messages[0].line == line
    assert "nothing" in built.messages[0].text
    with pytest.raises(Refused, match="nothing"):
        _ = lab.table
    lab.edit((6, 6, "// opp: C[M,N] = A[M,K] B[K,N]"))
    assert lab.build().messages[0].line == 6
    assert "op" in lab.build().error
    lab.edit((20, 20, "constexpr int TILE = 64;"))  # 4096 threads in a block
    assert "1024 threads" in lab.build().error + lab.build().note
    lab.reset()
    assert lab.build().error == ""


@pytest.mark.usefixtures("compiler")
def test_an_architecture_that_cannot_be_is_said_with_what_works():
    built = KernelLab("bf16_wgmma", arch="sm_80").build()
    assert "sm_90a works" in built.error
    assert "does not run on sm_33" in KernelLab("fp32_tiled", arch="sm_33").build().error
    old = KernelLab("fp32_tiled", arch="sm_60").build()
    assert "does for" in old.error  # NVRTC's own list


def test_without_a_compiler_the_rest_works(lab, monkeypatch):
    def none():
        raise NoCompiler('no CUDA compiler here: pip install "workbench[nvrtc]" brings one')

    monkeypatch.setattr(nvrtc, "find_nvrtc", none)
    built = lab.build()
    assert built.error == ""
    assert "pip install" in built.note
    assert built.resources == {}
    with pytest.raises(Refused, match="pip install"):
        lab.figure(kind="occupancy")
    assert lab.figure(kind="ladder").data


@pytest.mark.usefixtures("compiler")
def test_without_nvdisasm_the_resources_stay(lab, monkeypatch):
    def none():
        raise sass.NoDisassembler("no nvdisasm here: pip install it")

    monkeypatch.setattr(sass, "find_nvdisasm", none)
    built = build.build(lab.name, lab.source, lab.arch, lab.shape)
    assert built.resources["registers"] > 0
    assert "pip install" in built.note
    assert built.missing == ()


@pytest.mark.usefixtures("cpp")
def test_five_schedules_and_a_lost_barrier(lab):
    assert lab.fuzz()["passed"].tolist() == [True] * len(fuzz.CHECKS)
    line = line_of(lab, "__syncthreads")
    frame = lab.edit((line, line)).fuzz()
    assert not frame["passed"].any()
    assert frame["at"][:-1].str.match(r"C\[\d+, \d+\]").all()  # the last row is the race
    assert list(lab.reset().mutants()["caught"]) == [True, True]


@pytest.mark.usefixtures("cpp")
def test_a_write_out_of_bounds_names_block_and_thread(lab):
    line = line_of(lab, "if (row < M")
    frame = lab.edit((line, line, "    C[(size_t)row * N + column] = sum;")).fuzz()
    row = frame.iloc[0]
    assert not row["passed"]
    assert len(row["block"]) == len(row["thread"]) == 3
    assert "out of bounds" in row["message"]
    assert "C[" in row["message"]


@pytest.mark.usefixtures("cpp")
def test_a_schedule_run_can_be_cancelled_and_a_source_that_is_no_cpp_is_an_error(lab):
    job = Job(lab.mutants)
    job.cancel()
    with pytest.raises(Cancelled):
        job.run()
    line = line_of(lab, "sum +=")
    with pytest.raises(CompileError, match="nothing"):
        lab.edit((line, line, "            sum += nothing;")).fuzz()


def test_code_makes_the_same_lab_again(lab):
    changes = {
        "a line less": lab.source.replace("    float sum = 0.0f;\n", ""),
        "an empty line more": lab.source.replace("    float sum", "\n\n    float sum"),
        "two places": lab.source.replace("TILE = 32", "TILE = 16").replace("sum +=", "sum = sum +"),
        "another beginning and end": "\n" + lab.source + "// end",
        "as shipped": lab.source,
    }
    for what, source in changes.items():
        lab.source = source
        made: dict = {}
        exec("\n".join(line for line in lab.code().split("\n") if "fuzz" not in line), made)
        assert made["lab"].source == source, what
        assert (made["lab"].arch, made["lab"].shape) == (lab.arch, lab.shape)
        assert lab.edited == (what != "as shipped")


@pytest.mark.usefixtures("cpp")
def test_a_kernel_that_never_ends_costs_one_time_limit(lab, monkeypatch):
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.5)
    line = line_of(lab, "float sum")
    frame = lab.edit((line, line, "    float sum = 0.0f; while (K > 0) { __syncthreads(); }")).fuzz()
    assert not frame["passed"].any()
    assert "0.5 s" in frame["message"][0]
    assert set(frame["message"][1:]) == {"not run: forward took longer than 0.5 s"}


def test_what_is_not_there_is_refused(lab):
    with pytest.raises(Refused, match="fp32_tiled"):
        KernelLab("fp32_tilde")
    with pytest.raises(Refused, match="lines 900 to 901"):
        lab.edit((900, 901, "x"))
    with pytest.raises(Refused, match="mix"):
        lab.figure(kind="mixx")
    with pytest.raises(Refused, match="no machine"):
        lab.roofline("abacus")
    with pytest.raises(Refused, match="is not MxNxK"):
        KernelLab(shape="12x13")
    with pytest.raises(Refused, match="architecture 'hopper' is not of the form sm_80"):
        KernelLab("fp32_tiled", arch="hopper")
    with pytest.raises(Refused, match="near: sm_90a"):
        lab.arch = "sm90a"
    assert lab.arch == lab.architectures[-1]


@pytest.mark.usefixtures("cpp")
def test_mutants_of_a_source_that_is_wrong_already_are_refused(lab):
    line = line_of(lab, "sum += ")
    job = Job(lambda job: None)
    with pytest.raises(Refused, match="fp32_tiled fails as it stands: forward: wrong"):
        lab.edit((line, line, "")).mutants(job)
    assert lab.reset().mutants(job)["caught"].all()


@pytest.mark.usefixtures("compiler")
def test_without_a_gpu_a_kernel_is_compiled_and_has_no_time(lab):
    frame = lab.measure(rounds=1)
    assert frame["where"].tolist() == ["compiled only"]
    table, where = lab.timings()
    assert table["seconds"].isna().all()
    assert "predictions alone" in where
    lab.shape = (64, 64, 64)
    assert lab.measured is None  # what was timed of another shape is not shown


def record(ratio=0.5):
    row = dict.fromkeys(COLUMNS) | {
        "kernel": "fp32_tiled",
        "bits": 32,
        "shape": "4096x4096x4096",
        "where": "measured",
    }
    row |= {
        "seconds": 0.01,
        "ratio": ratio,
        "gflops": 13000.0,
        "baseline": "cublas-fp32",
        "device": "NVIDIA H200",
    }
    document = {"kernels": [row], "machine": {"device": "NVIDIA H200"}, "date": "2026-01-02T00:00:00+00:00"}
    return Recorded(kernel_lab.__file__, "NVIDIA H200", document["date"], document)


def test_a_recorded_run_is_shown_as_recorded(lab):
    lab.records = [record()]
    frame, where = lab.timings()
    assert where == "recorded on NVIDIA H200, 2026-01-02"
    assert frame["where"].tolist() == ["recorded"]
    assert "recorded on NVIDIA H200" in lab.figure(kind="ladder").layout.title.text
    lab.records[0].document["kernels"].append(lab.records[0].document["kernels"][0] | {"kernel": "cpu-naive"})
    points, limits, ceilings = lab.roofline("record 0")
    assert points["kernel"].tolist() == ["fp32_tiled"]  # the CPU's do not stand under the GPU's roofs
    assert limits.where == "data sheet"
    assert points["where"].tolist() == ["recorded"]
    assert ceilings is None


def test_what_was_timed_here_comes_before_a_record(lab):
    lab.records = [record()]
    row = dict(record().document["kernels"][0], ratio=0.75)
    lab._frames[lab.shape, "kernel"] = to_frame([row])
    frame, where = lab.timings()
    assert where == "measured here"
    assert frame["ratio"].tolist() == [0.75]


def test_a_data_sheet_gives_ceilings_that_are_called_a_model(lab):
    points, limits, ceilings = lab.roofline("NVIDIA H200")
    assert len(points) == 0
    assert limits.where == "data sheet"
    assert len(ceilings) == 1  # every rung does the same work
    figure = lab.figure(kind="roofline", machine="NVIDIA H200")
    assert any("(model)" in (trace.name or "") for trace in figure.data)
    assert "model, not measured" in figure.layout.meta["caption"]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("kind", FIGURES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_has_axes_with_units_and_a_caption(lab, kind, theme):
    figure = lab.figure(theme, kind=kind, machine="NVIDIA H200")
    assert figure.layout.meta["caption"]
    assert figure.layout.xaxis.title.text
    assert figure.layout.font.color


def test_every_kernel_can_be_laid_on_the_table():
    lab = KernelLab()
    for name in kernels():
        lab.choose(name)
        assert lab.kernel.name == name
        assert lab.arch in lab.architectures
        assert name in ladders()[lab.ladder]


def test_a_kernel_of_ones_own(lab):
    text = lab.source.replace("fp32_tiled", "mine").replace("TILE = 32", "TILE = 8")
    own = KernelLab(Kernel.parse(text))
    assert own.name == "mine"
    assert own.source == text
    assert not own.edited
    assert own.kernel.launch(64, 64, 64)[1] == (8, 8, 1)


# One's own kernel


OWN = """extern "C" __global__ void mine(const float* A, const float* B, float* C, int M, int N, int K) {
    const int column = blockIdx.x * 16 + threadIdx.x, row = blockIdx.y * 16 + threadIdx.y;
    if (row >= M || column >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += A[row * K + k] * B[k * N + column];
    C[row * N + column] = sum;
}
"""


def header_from(error: Exception) -> str:
    return str(error).partition(":\n")[2]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("source", [OWN, OWN.replace('extern "C" ', "")], ids=["extern C", "mangled"])
def test_a_source_without_a_header_is_compiled_and_shown(source):
    lab = KernelLab(source)
    built = lab.build()
    assert (lab.name, built.error, built.kernel) == ("mine", "", None)
    assert built.resources["registers"] > 0
    assert built.listing.count("FFMA") > 0
    assert lab.table["source"].str.contains(r"sum \+= A").any()  # by its own lines
    assert lab.figure().data
    for run in (lab.fuzz, lab.mutants, lab.measure):
        with pytest.raises(Refused, match=r"mine\.cu:1: no header says how it is launched"):
            run()
    with pytest.raises(Refused, match="stands on no ladder"):
        lab.figure(kind="ladder")
    lab.source = source.replace("sum +=", "nothing +=")
    assert lab.build().messages[0].line == 5


@pytest.mark.usefixtures("compiler", "cpp")
def test_with_the_header_of_the_refusal_it_runs(tmp_path):
    with pytest.raises(Refused) as refusal:
        KernelLab(OWN).fuzz()
    source = f"{header_from(refusal.value)}\n\n{OWN}"
    path = tmp_path / "mine.cu"
    path.write_text(source)
    for lab in (KernelLab(source, small=(33, 20, 20)), KernelLab(path, small="33x20x20")):
        assert lab.fuzz()["passed"].all()
        assert lab.build().occupancy is not None
    assert KernelLab(str(path)).source == source


def test_the_code_makes_a_kernel_of_ones_own_again(tmp_path):
    path = tmp_path / "own.cu"
    path.write_text(OWN)
    for given in (OWN, path):
        lab = KernelLab(given, arch="sm_80")
        lab.source = lab.source.replace("0.0f", "1.0f")
        made: dict = {}
        exec(lab.code().rpartition("\n")[0], made)
        assert made["lab"].source == lab.source
    assert repr(str(path)) in lab.code()


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        ("nowhere.cu", "nowhere.cu: no such kernel file"),
        ("fp32_tile", "no CUDA kernel is called 'fp32_tile'; near: fp32_tiled"),
        ("int f(int x) {\n}\n", "no __global__ function in it"),
        (4096, "takes a kernel's name, the path of a .cu file, a source or a Kernel; not a int"),
    ],
)
def test_what_is_no_kernel_is_refused_in_a_short_line(kernel, says):
    with pytest.raises(Refused, match=says) as refusal:
        KernelLab(kernel)
    assert len(str(refusal.value)) < 150


@pytest.mark.parametrize("shape", [4096, (1, 2), "4096", 1.5])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(Refused, match="is not MxNxK, three whole numbers"):
        KernelLab(shape=shape)


def test_what_is_known_is_kept_where_a_measurement_ends_early(lab, monkeypatch):
    known = to_frame([{"kernel": "cpu-numba-naive", "shape": "1024x1024x1024", "where": "measured"}])

    def hangs(*_, found, **__):
        found(known)
        raise Refused("the measurement said nothing for 100 s")

    monkeypatch.setattr(kernel_lab, "measure_apart", hangs)
    with pytest.raises(Refused, match="said nothing"):
        lab.measure("cpu-numba-*")
    assert lab.measured["kernel"].tolist() == ["cpu-numba-naive"]
