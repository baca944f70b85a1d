"""The header of a .cu file is its manifest, and a wrong one is refused with its line."""

from __future__ import annotations

import pytest

from workbench.errors import Refused
from workbench.speed import Kernel, kernels

SOURCE = """// name: twice
// idea: One sentence that goes on
//       in a second line.
// op: C[M,N] = A[M,K] B[K,N]
// bits: 32
// shapes: any
// constants: BM, BN
// grid: ceil(N / BN), ceil(M / BM)
// block: BN, BM * 2
// shared: 4 * BM * BN
// architecture: sm_80
// reference: none

constexpr int BM = 4;
constexpr int BN = 8;
extern "C" __global__ void twice(const float* A, const float* B, float* C, int M, int N, int K) {}
"""


def test_the_header_is_read():
    kernel = Kernel.parse(SOURCE)
    assert (kernel.name, kernel.bits, kernel.architecture) == ("twice", 32, "sm_80")
    assert kernel.idea == "One sentence that goes on in a second line."
    assert kernel.constants == {"BM": 4, "BN": 8}


def test_the_launch_covers_every_element_and_follows_an_edited_constant():
    assert Kernel.parse(SOURCE).launch(9, 17, 5) == ((3, 3, 1), (8, 8, 1), 128)
    assert Kernel.parse(SOURCE.replace("BN = 8", "BN = 16")).launch(9, 17, 5) == ((2, 3, 1), (16, 8, 1), 256)


@pytest.mark.parametrize(
    ("good", "bad", "line", "says"),
    [
        ("// bits: 32", "// bits: 12", 5, "bits"),
        ("// bits: 32", "// bitz: 32", 5, "near: bits"),
        ("// bits: 32\n", "", 1, "does not say bits"),
        ("// bits: 32", "// bits:", 5, "does not say bits"),
        ("// shapes: any", "// bits: 32", 6, "said twice"),
        ("// shapes: any", "//shapes any", 6, "key: value"),
        ("constants: BM, BN", "constants: BM, BX", 7, "constexpr int BX"),
        ("ceil(N / BN)", "ceil(N / BX)", 8, "BX"),
        ("ceil(N / BN)", "ceil(N / BN", 8, "grid"),
        ("BN, BM * 2", "__import__('os')", 9, "block"),
        ("BN, BM * 2", "1, 1, 1, 1", 9, "too many"),
        ("sm_80", "hopper", 11, "sm_80"),
        ("void twice", "void thrice", 1, "twice"),
        ("C[M,N] = A[M,K] B[K,N]", "C = A + B", 4, "op"),
    ],
)
def test_a_malformed_header_is_refused_with_its_file_and_line(good, bad, line, says):
    assert good in SOURCE
    with pytest.raises(Refused) as refused:
        Kernel.parse(SOURCE.replace(good, bad, 1), where="twice.cu")
    assert str(refused.value).startswith(f"twice.cu:{line}:")
    assert says in str(refused.value)


def test_a_file_whose_name_is_not_its_kernel_is_refused(tmp_path):
    (tmp_path / "other.cu").write_text(SOURCE)
    with pytest.raises(Refused, match=r"other\.cu:1: .*twice"):
        kernels(tmp_path)


def test_a_new_file_is_a_new_kernel(tmp_path):
    (tmp_path / "twice.cu").write_text(SOURCE)
    assert list(kernels(tmp_path)) == ["twice"]


def test_the_hash_changes_with_the_source():
    assert Kernel.parse(SOURCE).hash != Kernel.parse(SOURCE + "\n").hash


@pytest.mark.parametrize("name", list(kernels()))
def test_a_launch_that_cuda_cannot_start_is_refused(name):
    with pytest.raises(Refused, match="65535"):
        kernels()[name].launch(2**31 - 1, 1, 1)
    with pytest.raises(Refused, match="start at 1"):
        kernels()[name].launch(0, 1, 1)


def test_too_many_threads_are_refused():
    with pytest.raises(Refused, match="1024"):
        Kernel.parse(SOURCE.replace("BN = 8", "BN = 256")).launch(8, 8, 8)
