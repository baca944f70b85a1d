"""The header of a .cu file is its manifest, and a wrong one is refused with its line."""

from __future__ import annotations

import pytest

from workbench.errors import Refused
from workbench.inspect import KernelLab
from workbench.speed import Kernel, kernels, measure
from workbench.speed import kernel as kernel_module
from workbench.speed.kernel import ARCHITECTURES, Draft, Gain, TensorMap, opened, unreadable
from workbench.speed.manifest import function_of

SOURCE = """// name: twice
// idea: One sentence that goes on
//       in a second line.
// ladder: fp32 2
// gain: 1.5 to 3x over fp32_naive: because.
// op: C[M,N] = A[M,K] B[K,N]
// operands: A fp32, B fp16, C fp32
// shapes: any
// constants: BM, BN
// grid: ceil(N / BN), ceil(M / BM)
// block: BN, BM * 2
// shared: 4 * BM * BN
// tolerance: 1e-5
// registers: 64
// requires: HMMA, LDG.E.128
// maps: A BM 64
// architecture: sm_80
// reference: none

constexpr int BM = 4;
constexpr int BN = 8;
extern "C" __global__ void __launch_bounds__(64) twice(const float* A, const float* B, float* C, int M, int N, int K) {}
"""


def test_the_header_is_read():
    kernel = Kernel.parse(SOURCE)
    assert (kernel.name, kernel.bits, kernel.architecture) == ("twice", 16, "sm_80")
    assert kernel.idea == "One sentence that goes on in a second line."
    assert kernel.constants == {"BM": 4, "BN": 8}
    assert (kernel.ladder, kernel.rung) == ("fp32", 2)
    assert kernel.gain == Gain(1.5, 3.0, "fp32_naive", "because.")
    assert list(kernel.operands.items()) == [("A", "fp32"), ("B", "fp16"), ("C", "fp32")]
    assert kernel.outputs == ("C",)
    assert kernel.requires == ("HMMA", "LDG.E.128")
    assert kernel.maps == (TensorMap("A", 4, 64),)
    assert (kernel.tolerance, kernel.registers, kernel.packing, kernel.pitch, kernel.zeroed) == (
        1e-5,
        64,
        "none",
        0,
        (),
    )


def test_the_launch_covers_every_element_and_follows_an_edited_constant():
    assert Kernel.parse(SOURCE).launch(9, 17, 5) == ((3, 3, 1), (8, 8, 1), 128)
    assert Kernel.parse(SOURCE.replace("BN = 8", "BN = 16")).launch(9, 17, 5) == ((2, 3, 1), (16, 8, 1), 256)


@pytest.mark.parametrize(
    ("own", "runs", "not_on"),
    [
        ("sm_80", ("sm_80", "sm_89", "sm_90", "sm_90a", "sm_100"), ("sm_75",)),
        ("sm_90a", ("sm_90a",), ("sm_80", "sm_90", "sm_100a", "hopper")),
    ],
)
def test_an_architecture_with_a_letter_is_the_only_one(own, runs, not_on):
    kernel = Kernel.parse(SOURCE.replace("sm_80", own))
    assert all(kernel.runs_on(arch) for arch in runs)
    assert not any(kernel.runs_on(arch) for arch in not_on)
    assert kernel.architectures == tuple(arch for arch in ARCHITECTURES if arch in runs)


@pytest.mark.parametrize(
    ("good", "bad", "line", "says"),
    [
        ("// ladder: fp32 2", "// lader: fp32 2", 4, "near: ladder"),
        ("// ladder: fp32 2", "// ladder: fp32", 4, "'fp32 3'"),
        ("// ladder: fp32 2\n", "", 1, "does not say ladder"),
        ("// ladder: fp32 2", "// ladder:", 4, "does not say ladder"),
        ("1.5 to 3x over", "faster than", 5, "3 to 6x over"),
        ("A fp32, B fp16", "A fp32, D fp16", 7, "'D' is no operand"),
        ("B fp16", "B float", 7, "no such type"),
        ("A fp32, B fp16, C fp32", "A fp32, C fp32", 7, "B of C[M,N]"),
        ("A fp32, B fp16, C fp32", "A fp32, B fp32", 7, "C of C[M,N]"),
        ("// shapes: any", "// tolerance: 1", 13, "said twice"),
        ("// shapes: any", "//shapes any", 8, "key: value"),
        ("constants: BM, BN", "constants: BM, BX", 9, "constexpr int BX"),
        ("ceil(N / BN)", "ceil(N / BX)", 10, "BX"),
        ("ceil(N / BN)", "ceil(N / BN", 10, "grid"),
        ("BN, BM * 2", "__import__('os')", 11, "block"),
        ("BN, BM * 2", "1, 1, 1, 1", 11, "too many"),
        ("tolerance: 1e-5", "tolerance: small", 13, "small"),
        ("tolerance: 1e-5", "tolerance: nan", 13, "from 0 to 1"),
        ("registers: 64", "registers: 300", 14, "1 to 255"),
        ("HMMA,", "hmma,", 15, "'hmma' is not an instruction"),
        ("maps: A BM 64", "maps: D BM 64", 16, "'D BM 64'"),
        ("maps: A BM 64", "maps: A BM 300", 16, "256"),
        ("// shapes: any", "// shapes: any\n// zeroed: A", 9, "'A' is no result"),
        ("// shapes: any", "// shapes: any\n// pitch: 12", 9, "power of two"),
        ("// shapes: any", "// shapes: any\n// packing: tight", 9, "'tight' is not a known packing"),
        ("sm_80", "hopper", 17, "sm_80"),
        ("twice(const", "thrice(const", 1, "twice"),
        ('extern "C" __global__', "__global__", 1, 'extern "C"'),
        ("C[M,N] = A[M,K] B[K,N]", "C = A + B", 6, "op"),
    ],
)
def test_a_malformed_header_is_refused_with_its_file_and_line(good, bad, line, says):
    assert good in SOURCE
    with pytest.raises(Refused) as refused:
        Kernel.parse(SOURCE.replace(good, bad, 1), where="twice.cu")
    assert str(refused.value).startswith(f"twice.cu:{line}:") or "said twice" in says
    assert says in str(refused.value)


def test_ladders_have_no_gaps_and_gains_are_over_kernels_that_exist():
    by_ladder: dict[str, list[int]] = {}
    for kernel in kernels().values():
        by_ladder.setdefault(kernel.ladder, []).append(kernel.rung)
        assert (kernel.gain is None) == (kernel.rung == 1)
        if kernel.gain:
            assert kernel.gain.over in kernels()
            assert 0 < kernel.gain.low <= kernel.gain.high
    for rungs in by_ladder.values():
        assert sorted(rungs) == list(range(1, len(rungs) + 1))


def test_no_two_kernels_stand_on_one_rung():
    places = [(one.ladder, one.rung) for one in kernels().values()]
    assert len(places) > 30
    assert sorted(places) == sorted(set(places))


def test_a_prediction_is_over_a_rung_before_it_or_the_end_of_another_ladder():
    known = kernels()
    ends: dict[str, int] = {}
    for one in known.values():
        ends[one.ladder] = max(one.rung, ends.get(one.ladder, 0))
    predicted = [(one, one.gain.over) for one in known.values() if one.gain]
    assert predicted
    for one, name in predicted:
        over = known[name]
        if over.ladder == one.ladder:
            assert over.rung < one.rung, one.name
        else:
            assert over.rung == ends[over.ladder], one.name


def test_a_file_whose_name_is_not_its_kernel_is_refused(tmp_path):
    (tmp_path / "other.cu").write_text(SOURCE)
    with pytest.raises(Refused, match=r"other\.cu:1: .*twice"):
        Kernel.read(tmp_path / "other.cu")


def test_every_kernel_of_ours_can_be_read():
    """A file that cannot would be missing in every other test."""
    assert unreadable() == {}
    assert list(kernels()) == sorted(path.stem for path in kernel_module.FOLDER.glob("*.cu"))


def test_a_file_that_cannot_be_read_does_not_stand_in_the_way_of_the_others(tmp_path):
    (tmp_path / "twice.cu").write_text(SOURCE)
    (tmp_path / "broken.cu").write_text(SOURCE.replace("// idea:", "// ide:"))
    (tmp_path / "bytes.cu").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.cu").mkdir()
    assert list(kernels(tmp_path)) == ["twice"]
    said = {name: str(error) for name, error in unreadable(tmp_path).items()}
    assert list(said) == ["broken", "bytes", "folder"]
    assert list(unreadable(tmp_path, "b*, t*")) == ["broken", "bytes"]
    assert "broken.cu:2: the header knows no 'ide'" in said["broken"]
    assert "UTF-8" in said["bytes"]
    assert "folder.cu: cannot be read" in said["folder"]
    with pytest.raises(Refused, match=r"broken\.cu:2"):
        Kernel.read(tmp_path / "broken.cu")


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """The folder of the kernels is another, with one that is right and one whose header is malformed."""
    (tmp_path / "twice.cu").write_text(SOURCE)
    (tmp_path / "broken.cu").write_text(SOURCE.replace("// idea:", "// ide:"))
    monkeypatch.setattr(kernels, "__defaults__", (tmp_path,))
    monkeypatch.setattr(unreadable, "__defaults__", (tmp_path, "*"))


@pytest.mark.usefixtures("broken", "no_gpu")
def test_a_malformed_header_is_a_row_where_a_glob_matches_it_and_refused_by_name():
    frame = measure("4x4x4", "b*")
    assert list(frame["kernel"]) == ["broken"]
    assert list(frame["where"]) == ["skipped"]
    assert "broken.cu:2: the header knows no 'ide'" in frame["note"][0]
    frame = measure("4x4x4", "b*, cpu-numba-naive", rounds=1)
    assert dict(zip(frame["kernel"], frame["where"], strict=True))["cpu-numba-naive"] == "measured"
    with pytest.raises(Refused, match=r"broken\.cu:2"):
        measure("4x4x4", "broken")


@pytest.mark.usefixtures("broken", "no_gpu")
def test_the_kernel_lab_opens_beside_a_malformed_header():
    lab = KernelLab("twice")
    assert list(lab.shipped) == ["twice"]
    with pytest.raises(Refused, match=r"broken\.cu:2: the header knows no 'ide'"):
        lab.choose("broken")


def test_a_new_file_is_a_new_kernel(tmp_path):
    (tmp_path / "twice.cu").write_text(SOURCE)
    assert list(kernels(tmp_path)) == ["twice"]


def test_a_launch_that_cuda_cannot_start_is_refused():
    with pytest.raises(Refused, match="65535"):
        kernels()["fp32_tiled"].launch(2**31 - 1, 1, 1)


@pytest.mark.parametrize("name", list(kernels()))
def test_an_empty_shape_is_refused(name):
    with pytest.raises(Refused, match="start at 1"):
        kernels()[name].launch(0, 1, 1)


def test_too_many_threads_or_too_much_shared_memory_are_refused():
    with pytest.raises(Refused, match="1024"):
        Kernel.parse(SOURCE.replace("BN = 8", "BN = 256")).launch(8, 8, 8)
    with pytest.raises(Refused, match="no architecture"):
        Kernel.parse(SOURCE.replace("4 * BM * BN", "300000")).launch(8, 8, 8)


def test_the_hash_changes_with_the_source_and_with_our_headers(monkeypatch, tmp_path):
    assert Kernel.parse(SOURCE).hash != Kernel.parse(SOURCE + "\n").hash
    (tmp_path / "inner.cuh").write_text("// one")
    (tmp_path / "outer.cuh").write_text('#include "inner.cuh"\n')
    monkeypatch.setattr(kernel_module, "FOLDER", tmp_path)
    including = SOURCE + '#include "outer.cuh"\n'
    before = Kernel.parse(including).hash
    (tmp_path / "inner.cuh").write_text("// two")
    assert Kernel.parse(including).hash != before


# One's own


OWN = """extern "C" __global__ void mine(const float* A, const float* B, float* C, int M, int N, int K) {
    const int column = blockIdx.x * 16 + threadIdx.x, row = blockIdx.y * 16 + threadIdx.y;
    if (row >= M || column >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += A[row * K + k] * B[k * N + column];
    C[row * N + column] = sum;
}
"""


@pytest.mark.parametrize("before", ["", "// the first kernel that I wrote\n", "#include <cuda_fp16.h>\n"])
def test_a_source_without_a_header_is_a_draft(before, tmp_path):
    path = tmp_path / "anything.cu"
    path.write_text(before + OWN)
    for one in (opened(before + OWN), opened(path), opened(str(path))):
        assert isinstance(one, Draft)
        assert (one.name, one.source) == ("mine", before + OWN)


def test_what_is_missing_is_refused_with_lines_to_copy_that_work():
    with pytest.raises(Refused, match=r"mine\.cu:1: no header says how it is launched") as refusal:
        Kernel.parse(OWN, where="mine.cu")
    header = str(refusal.value).partition(":\n")[2]
    kernel = Kernel.parse(f"{header}\n\n{OWN}", where="mine.cu")
    assert kernel.launch(33, 17, 5)[:2] == ((2, 3, 1), (16, 16, 1))
    assert isinstance(opened(f"{header}\n\n{OWN}"), Kernel)
    some = "\n".join(line for line in header.splitlines() if "grid" not in line and "block" not in line)
    with pytest.raises(
        Refused, match=r"does not say grid, block \(.*such as:\n// grid: ceil.*\n// block: 16, 16$"
    ):
        Kernel.parse(f"{some}\n\n{OWN}", where="mine.cu")


def test_a_function_is_found_behind_its_launch_bounds():
    assert function_of('extern "C" __global__ void __launch_bounds__(64, 2) twice(float* A) {}') == "twice"
    assert function_of("__global__ void\nthrice(float* A) {}") == "thrice"
    assert function_of("__device__ int f(int x) { return x; }") is None
    with pytest.raises(Refused, match="no __global__ function in it"):
        opened("int f(int x) {\n}")
