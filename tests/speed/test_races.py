"""Races in shared memory: a lost barrier is reported with the two threads and their lines, and nothing else is."""

from __future__ import annotations

import re
import shutil

import pytest

from workbench.errors import Refused
from workbench.speed import CompileError, Kernel, emulator, fuzz, kernels
from workbench.speed.emulator import RACES, places

pytestmark = pytest.mark.usefixtures("cpp")

SHAPES = {  # by the beginning of the op: more than a tile each way, and more steps than a ring has stages
    "C[M,N]": (140, 70, 330),
    "Y[M,N] = X": (18, 40, 2500),
    "Y[M,N] = SX": (18, 40, 330),
    "Y[M,N] = P": (33, 72, 8),
    "DX": (300, 72, 8),
}
# what a wait is for: without the others the kernel stands still, or the emulator sees a wrong order of instructions
ORDERS = ("__syncthreads", "__syncwarp", "cp_async_wait", "cp_async_commit")
HEADER = """// name: probe
// idea: A probe.
// ladder: probe 1
// gain: none: the first rung
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: A fp32, B fp32, C fp32
// shapes: any
// grid: 2
// block: {block}
// shared: {shared}
// tolerance: 1e-5
// registers: 64
// architecture: sm_80
// reference: none
#include "machine.cuh"
extern "C" __global__ void probe(const float* A, const float* B, float* C, int M, int N, int K) {{
    const int t = threadIdx.x;
"""
FIRST = HEADER.count("\n") + 1  # line of the body


def probe(*lines: str, block: str = "64", shared: str = "0") -> Kernel:
    """A kernel of these lines, the first of which is line FIRST, in two blocks; then it computes its product."""
    end = """    for (int i = t; i < M * N; i += blockDim.x) {
        float sum = 0;
        for (int k = 0; k < K; ++k) sum += A[i / N * K + k] * B[i % N * K + k];
        C[i] = sum;
    }
}
"""
    body = "".join(f"    {line}\n" for line in lines)
    return Kernel.parse(HEADER.format(block=block, shared=shared) + body + end)


def seen(kernel: Kernel) -> str:
    """What is wrong with its accesses; "" if nothing is."""
    found = emulator.run(kernel, (8, 8, 8), RACES)
    return found.violations[0].text if found.violations else ""


def crowded(kernel: Kernel) -> Kernel:
    """A kernel whose blocks take several tiles, with one block."""
    return Kernel.parse(kernel.source.replace("constexpr int BLOCKS = 132;", "constexpr int BLOCKS = 1;"))


@pytest.mark.parametrize("name", list(kernels()))
def test_no_kernel_has_a_race_and_every_lost_barrier_is_one(name):
    kernel = crowded(kernels()[name])
    shape = next(shape for part, shape in SHAPES.items() if kernel.op.startswith(part))
    whole = emulator.run(kernel, shape, RACES)
    assert whole.passed, whole.message
    for mutant in emulator.mutants(kernel):
        if not mutant.text.startswith(ORDERS):
            continue
        found = emulator.run(kernel, shape, RACES, without=mutant)
        assert found.violations, f"line {mutant.line}: {mutant.text}"
        race = found.violations[0]
        assert race.kind == "race", race
        assert re.match(r"(reads|writes) \w+(\[\d+\])+", race.text), race.text
        assert re.search(r"(thread \(\d+, \d+, \d+\)|its own|a wgmma|a TMA load|mbarrier)", race.text), (
            race.text
        )


@pytest.mark.skipif(
    not shutil.which("addr2line"), reason="addr2line is not installed: it comes with binutils"
)
def test_both_threads_the_element_and_both_lines_are_named():
    kernel = probe(
        "__shared__ float tile[4][16];",
        "tile[t / 16][t % 16] = t;",
        "if (blockIdx.x == 1 && t == 3) C[0] = tile[2][5];",
    )
    race = emulator.run(kernel, (8, 8, 8), RACES).violations[0]
    # threads run in turn: thread 3 reads before thread 37 writes
    assert race.block == (1, 0, 0)
    assert race.thread == (37, 0, 0)
    assert race.text == (
        f"writes tile[2][5] in line {FIRST + 1}, which thread (3, 0, 0) read in line {FIRST + 2}, "
        "and no barrier lies between"
    )
    assert str(race) == f"race: block (1, 0, 0), thread (37, 0, 0): {race.text}"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        # a barrier of the block orders everything before it and everything behind it
        (["tile[t] = t;", "__syncthreads();", "C[0] = tile[63 - t];"], ""),
        (["tile[t] = t;", "C[0] = tile[t];"], ""),
        (["C[0] = tile[0] + tile[t];"], ""),  # reads alone
        (["tile[0] = 1.0f;"], r"^writes tile\[0\].*, which thread \(0, 0, 0\) wrote"),  # the same value
        (["tile[t] = t;", "__syncthreads();", "C[0] = tile[t];", "tile[63 - t] = 1.0f;"], "read"),
        # a warp's barrier orders a warp
        (["tile[t] = t;", "__syncwarp();", "C[0] = tile[t ^ 1];"], ""),
        (["tile[t] = t;", "C[0] = tile[t ^ 1];"], r"thread \(\d+, 0, 0\) read"),
        (["tile[t] = t;", "__syncwarp();", "C[0] = tile[t ^ 32];"], r"thread \(\d+, 0, 0\) read"),
        # a shuffle brings threads together and orders no memory
        (["tile[t] = t;", "__shfl_sync(~0u, t, 0);", "C[0] = tile[t ^ 1];"], "no barrier lies between"),
        # atomics do not race with each other, but with the rest
        (["atomicAdd(&tile[0], 1.0f);", "__syncthreads();", "C[0] = tile[0];"], ""),
        (["C[0] = tile[0];", "atomicAdd(&tile[0], 1.0f);"], r"reads tile\[0\]|writes tile\[0\]"),
        # named barriers: who only arrives has learned nothing
        (["if (t < 32) tile[t] = t, bar_arrive(1, 64);", "else bar_sync(1, 64), C[0] = tile[t - 32];"], ""),
        (["if (t >= 32) tile[t] = t;", "if (t < 32) bar_arrive(1, 64), C[0] = tile[t + 32];", "else bar_sync(1, 64);"],
         r"no barrier lies between"),
        (["if (t < 32) tile[t] = t;", "bar_sync(1, 64);", "C[0] = tile[t ^ 32];"], ""),
    ],
)  # fmt: skip
def test_what_orders_two_accesses(lines, says):
    found = seen(probe("__shared__ float tile[64];", *lines))
    assert re.search(says, found) if says else not found, found


@pytest.mark.parametrize(
    ("waits", "says"),
    [
        (["cp_async_commit();", "cp_async_wait<0>();", "__syncthreads();"], ""),
        (["cp_async_commit();", "__syncthreads();", "cp_async_wait<0>();"], "a copy of thread"),
        (["cp_async_wait<0>();", "__syncthreads();"], "a copy of thread"),  # in no group, so not waited for
        (["cp_async_commit();", "cp_async_wait<1>();", "__syncthreads();"], "a copy of thread"),
        (["cp_async_commit();", "cp_async_wait<0>();"], "wrote|read"),
    ],
)
def test_a_copy_is_under_way_until_its_thread_waits(waits, says):
    kernel = probe(
        "extern __shared__ float tile[];",
        "if (t < 8) cp_async_16(tile + 4 * t, A + 4 * t);",
        *waits,
        "C[0] = tile[(4 * t + 4) % 32];",
        shared="128",
    )
    found = seen(kernel)
    assert re.search(says, found) if says else not found, found
    if says:
        assert "tile[" in found


def test_a_copy_is_also_under_way_for_its_own_thread():
    found = seen(
        probe(
            "__shared__ __align__(16) float tile[4];",
            "if (t == 0) cp_async_16(tile, A);",
            "if (t == 0) C[0] = tile[1];",
        )
    )
    assert "where a copy of its own" in found
    assert "was not waited for" in found


def test_blocks_do_not_race_with_one_another():
    assert not seen(probe("__shared__ float tile[64];", "if (t == int(blockIdx.x)) tile[0] = t;"))


def test_threads_have_three_indices():
    race = emulator.run(
        probe("__shared__ float x[1];", "x[0] = t;", block="2, 2, 2"), (8, 8, 8), RACES
    ).violations[0]
    assert race.thread == (1, 0, 0)
    alone = probe("__shared__ float x[1];", "if (t == 1 && threadIdx.y == 1) x[0] = t;", block="2, 2, 2")
    race = emulator.run(alone, (8, 8, 8), RACES).violations[0]
    assert race.thread == (1, 1, 1)
    assert "which thread (1, 1, 0) wrote" in race.text


def test_a_race_is_seen_where_the_result_is_right():
    """A barrier that no schedule misses, because whole warps read what they wrote, but that CUDA asks for."""
    kernel = probe(
        "__shared__ float tile[64];", "tile[t] = 1.0f;", "__syncthreads();", "tile[t ^ 32] = 1.0f;"
    )
    (mutant,) = emulator.mutants(kernel)
    assert all(one.passed for one in emulator.fuzz(kernel, (8, 8, 8), without=mutant))
    frame = fuzz.mutants(kernel, (8, 8, 8))
    assert frame["caught"].tolist() == [True]
    assert frame["by"].tolist() == [RACES]
    assert "thread (32, 0, 0): writes tile[32]" in frame["message"][0]
    assert "which thread (0, 0, 0) wrote" in frame["message"][0]


def test_the_table_of_schedules_ends_with_the_look_for_races(monkeypatch):
    kernel = kernels()["fp32_tiled"]
    (*_, frame) = fuzz.schedules(kernel, (33, 65, 70))
    assert frame["schedule"].tolist() == list(fuzz.CHECKS)
    assert frame["passed"].tolist() == [True] * len(fuzz.CHECKS)
    barrier = emulator.mutants(kernel)[0].text
    (*_, frame) = fuzz.schedules(Kernel.parse(kernel.source.replace(barrier, ";", 1)), (33, 65, 70))
    last = frame.iloc[-1]
    assert not last["passed"]
    assert last["block"] == (0, 0, 0)
    assert last["message"].startswith("race: writes a_tile[0][1]")

    def no_calls(kernel, *, races=False):
        if races:
            raise CompileError("unknown option", (), "")
        return build(kernel)

    build = emulator.build
    monkeypatch.setattr(emulator, "build", no_calls)
    (*_, frame) = fuzz.schedules(kernel, (33, 65, 70))
    assert frame["passed"].tolist() == [True] * 5 + [None]
    assert frame["message"].iloc[-1].startswith("not looked for: the compiler does not watch shared memory")


def test_without_the_linkers_tool_the_lines_are_left_out(monkeypatch):
    monkeypatch.setattr(places.shutil, "which", lambda name: None)
    found = seen(probe("__shared__ float x[1];", "x[0] = t;"))
    assert found == "writes x[0], which thread (0, 0, 0) wrote, and no barrier lies between"


def test_a_misspelt_schedule_is_refused():
    with pytest.raises(Refused, match="no schedule is called 'race'; near: races"):
        emulator.run(kernels()["fp32_tiled"], (8, 8, 8), "race")
