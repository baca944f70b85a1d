"""What the CUDA kernels compute and how they synchronise, checked on the CPU; and that the emulator sees faults."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.speed import CompileError, Kernel, NoCompiler, emulator, kernels
from workbench.speed.emulator import SCHEDULES, Mutant, worker

pytestmark = pytest.mark.usefixtures("cpp")

PRODUCT = {
    "all": [(33, 65, 70), (130, 140, 41)],  # more than a tile each way, divided by none; in five schedules
    "some": [(1, 1, 1), (31, 1, 97), (1, 40, 33), (5, 129, 31), (128, 256, 64)],  # in two
    "mutant": (140, 70, 330),  # two tiles, and more steps along K than a ring has stages
}
SHAPES = {  # by op; those not named are products
    "Y[M,N] = X[M,K] W[N,K]^T": {  # few tokens
        "all": [(3, 65, 70), (17, 140, 330)],
        "some": [(1, 1, 1), (1, 30, 97), (1, 40, 33), (5, 129, 31), (16, 128, 256)],
        "mutant": (18, 40, 2500),  # five steps of 512 in a ring of four
    },
    "Y[M,N] = P(X[M,N]) / (1 + |Q(X[M,N])|)": {
        "all": [(33, 72, 8)],
        "some": [(1, 1, 1), (65, 5, 2)],
        "mutant": (33, 72, 8),
    },
    "DX[M,N], DP[K,6], DQ[K,4] = gradient of P(X) / (1 + |Q(X)|)": {
        "all": [(33, 72, 8)],
        "some": [(1, 1, 1), (65, 5, 2)],
        "mutant": (300, 72, 8),
    },
    "Y[M,N] = P(X[M,N]) / (1 + sum |q X[M,N]^i|)": {
        "all": [(33, 72, 8)],
        "some": [(1, 1, 1), (65, 5, 2)],
        "mutant": (33, 72, 8),
    },
    "DX[M,N], DP[K,6], DQ[K,4] = gradient of P(X) / (1 + sum |q X^i|)": {
        "all": [(33, 72, 8)],
        "some": [(1, 1, 1), (65, 5, 2)],
        "mutant": (300, 72, 8),
    },
}


def crowded(kernel: Kernel) -> Kernel:
    """A kernel whose blocks stay and take several tiles, with one block instead of one for each multiprocessor."""
    return Kernel.parse(kernel.source.replace("constexpr int BLOCKS = 132;", "constexpr int BLOCKS = 1;"))


def shapes(kernel: Kernel) -> dict:
    return SHAPES.get(kernel.op, PRODUCT)


@pytest.mark.parametrize("name", list(kernels()))
def test_every_kernel_is_right_in_five_schedules(name):
    kernel = kernels()[name]
    for shape in shapes(kernel)["all"]:
        for one in emulator.fuzz(crowded(kernel), shape, seed=1):
            assert one.passed, f"{one.schedule} {shape}: {one.message}"


@pytest.mark.parametrize("name", list(kernels()))
def test_every_kernel_is_right_at_odd_shapes(name):
    kernel = kernels()[name]
    for shape in shapes(kernel)["some"]:
        for schedule in ("greedy", "reverse"):
            one = emulator.run(kernel, shape, schedule)
            assert one.passed, f"{schedule} {shape}: {one.message}"


def caught(kernel: Kernel, mutant: Mutant | None) -> bool:
    return any(
        not emulator.run(kernel, shapes(kernel)["mutant"], schedule, without=mutant).passed
        for schedule in SCHEDULES
    )


@pytest.mark.parametrize("name", list(kernels()))
def test_every_deleted_synchronisation_is_caught(name):
    kernel = crowded(kernels()[name])
    found = emulator.mutants(kernel)
    synchronises = re.search(r"__shared__", kernel.source)
    assert bool(found) == bool(synchronises)
    assert not caught(kernel, None)
    missed = [mutant for mutant in found if not caught(kernel, mutant)]
    assert not missed


# what may be taken out of the plain rungs: the edge of K, the edge of C
NEEDED = r" && k0 \+ [xy] < K|(?<=\()row < M && |(?<=\()row >= M \|\| "
UNGUARDED = [
    (name, match)
    for name in ("fp32_naive", "fp32_coalesced", "fp32_tiled")
    for match in re.finditer(NEEDED, kernels()[name].source)
]


@pytest.mark.parametrize(
    ("name", "match"), UNGUARDED, ids=lambda part: part if isinstance(part, str) else part[0].strip()
)
def test_every_deleted_bounds_check_is_caught(name, match):
    kernel = kernels()[name]
    text = kernel.source[: match.start()] + kernel.source[match.end() :]
    assert caught(Kernel.parse(text, where="without.cu"), None)


HEADER = """// name: {name}
// idea: A probe.
// ladder: probe 1
// gain: none: the first rung
// op: C[M,N] = A[M,K] B[N,K]^T
// operands: {operands}
// shapes: any
// grid: {grid}
// block: {block}
// shared: {shared}
// tolerance: 1e-5
// registers: 64
// architecture: sm_80
// reference: none
#include <cuda_fp16.h>
#include "machine.cuh"
extern "C" __global__ void {name}({parameters}, int M, int N, int K) {{
"""
CPP = {"fp32": "float", "fp16": "__half", "bf16": "unsigned short", "int32": "int", "int8": "signed char"}


def probe(
    body: str, operands: str = "A fp32, B fp32, C fp32", *, grid="1", block="64", shared="0", before=""
) -> Kernel:
    """A kernel with this body: a scrap of CUDA with the operands by name."""
    named = [part.split() for part in operands.split(",")]
    parameters = ", ".join(f"{'' if name == 'C' else 'const '}{CPP[dtype]}* {name}" for name, dtype in named)
    text = HEADER.format(
        name="probe", operands=operands, grid=grid, block=block, shared=shared, parameters=parameters
    )
    if before:
        text = text.replace('extern "C"', before + '\nextern "C"', 1)
    return Kernel.parse(text + body + "\n}\n")


def violation(kernel: Kernel, shape=(8, 8, 8), schedule="forward", **options) -> emulator.Violation:
    one = emulator.run(kernel, shape, schedule, **options)
    assert one.violations
    assert not one.passed
    assert np.isnan(one.relative_error)
    return one.violations[0]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_write_beyond_the_result_names_block_thread_operand_and_index(schedule):
    found = violation(probe("C[blockIdx.x * 64 + threadIdx.x] = 1.0f;", grid="2"), (8, 8, 8), schedule)
    assert found.kind == "out of bounds"
    assert found.block == (1, 0, 0)  # the one beyond the end
    index = 64 + found.thread[0]
    assert found.text == f"wrote C[{index}], outside its 64 elements"
    assert f"block (1, 0, 0), thread ({found.thread[0]}, 0, 0): wrote C[{index}]" in str(found)


@pytest.mark.parametrize(
    ("body", "schedule", "says"),
    [
        (
            "if (threadIdx.x == 9) C[0] = A[64];",
            "forward",
            r"thread \(9, 0, 0\): read A\[64\], outside its 64",
        ),
        (
            "if (threadIdx.x == 9) C[0] = A[-1];",
            "reverse",
            r"thread \(9, 0, 0\): read A\[-1\], outside its 64",
        ),
        ("if (threadIdx.x == 9) C[-2] = 0;", "reverse", r"thread \(9, 0, 0\): wrote C\[-2\], outside its 64"),
        (
            "if (threadIdx.x == 9) const_cast<float*>(A)[3] = 0;",
            "forward",
            r"thread \(9, 0, 0\): wrote A\[3\], an input",
        ),
        (
            "float v[4] = {}; v[threadIdx.x % 5] = A[0]; C[0] = v[threadIdx.x / 32];",
            "forward",
            r"thread \(4, 0, 0\).*array",
        ),
        (
            "__shared__ float s[32]; s[threadIdx.x] = A[0]; C[0] = s[0];",
            "forward",
            r"thread \(32, 0, 0\).*array",
        ),
        (
            "extern __shared__ float s[]; if (threadIdx.x == 9) s[16] = 1; __syncthreads(); C[0] = s[0];",
            "forward",
            r"thread \(9, 0, 0\): wrote 0 bytes beyond the 64 of dynamic shared memory",
        ),
        ("if (threadIdx.x == 9) *(volatile float*)nullptr = 1;", "forward", r"thread \(9, 0, 0\).*no memory"),
        ("C[threadIdx.x / (M - 8)] = 0;", "forward", "divided a whole number by zero"),
    ],
)
def test_what_a_thread_may_not_touch_is_named(body, schedule, says):
    assert re.search(says, str(violation(probe(body, shared="64"), schedule=schedule)))


OFFSETS = (
    "10000000",
    "100000000",
    "-100000000",
    "2000000000",
)  # elements; within what a 32-bit index reaches
RIGHT = kernels()["fp32_tiled"].source.replace("fp32_tiled", "beside")
STORE = "    if (row < M && column < N) C"  # the last line of a kernel that is right


def beside(line: str) -> Kernel:
    """A kernel that computes what it should, and one line more that its first thread runs."""
    assert RIGHT.count(STORE) == 1
    return Kernel.parse(RIGHT.replace(STORE, f"    if (row == 0 && column == 0) {{ {line} }}\n{STORE}"))


@pytest.mark.parametrize("schedule", ["forward", "reverse"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_an_access_far_away_beside_a_right_result_is_seen(offset, schedule):
    one = violation(beside(f"C[{offset}] = 1.0f;"), (33, 65, 70), schedule)
    assert (one.kind, one.block, one.thread) == ("out of bounds", (0, 0, 0), (0, 0, 0))
    assert one.text == f"wrote C[{offset}], outside its 2145 elements"
    one = violation(beside(f"((volatile const float*)A)[{offset}];"), (33, 65, 70), schedule)
    assert one.text == f"read A[{offset}], outside its 2310 elements"


def test_where_addresses_are_few_the_near_misses_are_still_seen(monkeypatch):
    """As many as a process may have whose address space is limited: guards of 1 MB."""
    import resource

    ask = worker.subprocess.Popen

    def limited(*arguments, **options):
        return ask(*arguments, preexec_fn=limit, **options)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

    monkeypatch.setattr(worker.subprocess, "Popen", limited)
    emulator.WORKER.close()
    try:
        assert emulator.run(beside(""), (33, 65, 70)).passed
        assert (
            violation(beside("C[2145] = 1;"), (33, 65, 70)).text == "wrote C[2145], outside its 2145 elements"
        )
    finally:
        emulator.WORKER.close()


@pytest.mark.parametrize("schedule", ["forward", "random"])
@pytest.mark.parametrize(
    ("index", "says"),
    [  # of a 4 KB array; b_tile, another, may lie on either side of it
        ("1024", r"0 bytes beyond a_tile"),
        ("1030", r"24 bytes beyond a_tile"),
        ("-3", r"12 bytes before a_tile"),
        ("3000000", r"1\d{7} bytes beyond [ab]_tile"),
        ("-3000000", r"1\d{7} bytes before [ab]_tile"),
    ],
)
def test_who_leaves_a_static_array_of_shared_memory_by_a_pointer_is_named(index, says, schedule):
    line = f"volatile int q = {index}; volatile float* p = &a_tile[0][0]; p[q] = 5.0f;"
    one = violation(beside(line), (33, 65, 70), schedule)
    assert (one.kind, one.block, one.thread) == ("out of bounds", (0, 0, 0), (0, 0, 0))
    assert one.text.startswith("wrote ")
    assert re.search(says, one.text)


def test_dynamic_shared_memory_is_looked_at_to_its_end():
    body = "extern __shared__ float s[]; if (threadIdx.x == 9) s[{}] = 1;\n__syncthreads(); C[threadIdx.x] = s[0];"
    for index in (16, 60, 1000, 50000):
        found = violation(probe(body.format(index), shared="64"))
        assert found.thread == (9, 0, 0)
        assert found.text == f"wrote {4 * index - 64} bytes beyond the 64 of dynamic shared memory"


def test_declarations_of_shared_memory_of_every_kind_are_fenced():
    """One after the other, so that a fence never takes the place of what is declared."""
    before = "__shared__ int outside[3];  // a __shared__ array; of the file"
    body = """__shared__ float one, two[3],
        three[4][5];  /* __shared__ int none[2]; */
    __shared__ __align__(16) volatile int four[8]; alignas(64) __shared__ unsigned five;
    extern __shared__ float six[];
    const int t = threadIdx.x;
    if (t < 3) outside[t] = 1, two[t] = 2;
    if (t < 20) three[t / 5][t % 5] = 3;
    if (t < 8) four[t] = 4;
    if (t == 0) one = 1, five = 5;
    six[t] = 6;
    __syncthreads();
    C[t] = outside[t % 3] + one + two[t % 3] + three[t % 4][t % 5] + four[t % 8] + five + six[t];"""
    for schedule in SCHEDULES:
        one = emulator.run(probe(body, shared="256", before=before), (8, 8, 8), schedule)
        assert not one.violations
        assert (one.output == 22).all()
    for index, name in ((3, "outside"), (8, "four"), (1, "five")):
        base = f"&{name}" if name == "five" else name
        line = (
            f"volatile int q = {index}; if (t == 9) ((volatile int*)({base}))[q] = 7;\n    __syncthreads();"
        )
        found = violation(probe(body.replace("__syncthreads();", line), shared="256", before=before))
        assert found.thread == (9, 0, 0)
        assert f"0 bytes beyond {name}" in found.text


def test_what_a_kernel_prints_is_dropped(capfd):
    one = emulator.run(
        probe('printf("hello\\n"); C[threadIdx.x] = 1;', before="#include <cstdio>"), (8, 8, 8)
    )
    assert not one.violations
    emulator.WORKER.close()  # what waits in a buffer comes out now
    assert capfd.readouterr() == ("", "")


def test_a_barrier_that_some_threads_never_reach_is_named_with_its_line():
    body = "if (threadIdx.x < 40) __syncthreads();\nC[threadIdx.x] = 1.0f;"
    found = violation(probe(body))
    assert found.kind == "deadlock"
    assert re.search(r"__syncthreads \(line 18\), which 24 of 64 threads never reach", found.text)


def test_two_barriers_of_one_block_are_divergent():
    body = "if (threadIdx.x < 40) __syncthreads();\nelse __syncthreads();\nC[threadIdx.x] = 1.0f;"
    found = violation(probe(body))
    assert found.kind == "divergent barrier"
    assert re.search(r"line 19, while 40 threads of its block wait in that of line 18", found.text)


def test_lanes_that_miss_a_shuffle_are_a_deadlock():
    found = violation(probe("C[threadIdx.x] = threadIdx.x == 3 ? 0.0f : __shfl_xor_sync(~0u, A[0], 1);"))
    assert found.kind == "deadlock"
    assert "__shfl_xor_sync" in found.text


def test_a_kernel_that_hangs_is_stopped_and_the_next_one_runs():
    hangs = probe("volatile float* spin = C; while (!(*spin > 1)) {}\nC[threadIdx.x] = 1.0f;")
    began = time.monotonic()
    found = violation(hangs, timeout_s=0.3)
    assert found.kind == "time limit", found
    assert time.monotonic() - began < 10
    assert emulator.run(kernels()["fp32_naive"], (3, 4, 5)).passed


def test_a_stack_that_overflows_is_a_violation():
    deep = "__noinline__ __device__ int deep(int n) { volatile int v[512] = {n}; return deep(n + 1) + v[1]; }"
    assert violation(probe("C[0] = deep(1);", before=deep)).kind == "stack"


def test_a_process_that_dies_is_an_answer():
    found = violation(probe("if (threadIdx.x == 1) abort();", before="#include <cstdlib>"))
    assert found.kind == "crash"
    assert "status" in str(found)
    assert emulator.run(kernels()["fp32_naive"], (3, 4, 5)).passed


def test_a_process_that_does_not_even_heed_its_clock_is_ended(monkeypatch):
    monkeypatch.setattr(worker, "GRACE_S", 0.2)
    masked = "#include <csignal>\n#include <unistd.h>"
    body = "sigset_t all; sigfillset(&all); sigprocmask(SIG_BLOCK, &all, nullptr); for (;;) pause();"
    found = violation(probe(body, before=masked), timeout_s=0.2)
    assert found.kind == "time limit"
    assert "its process was ended" in found.text


def test_what_is_never_written_is_counted():
    one = emulator.run(probe("if (threadIdx.x != 7) C[threadIdx.x] = 1.0f;"), (8, 8, 8))
    assert not one.passed
    assert one.message.startswith("1 elements of the result are NaN")
    assert np.isnan(one.output[0, 7])


def test_shared_memory_begins_as_nan():
    for words in ("__shared__ float s[64];", "extern __shared__ float s[];"):
        one = emulator.run(probe(f"{words} C[threadIdx.x] = s[threadIdx.x];", shared="256"), (8, 8, 8))
        assert np.isnan(one.output).all()


def test_a_source_that_does_not_compile_names_its_line():
    with pytest.raises(CompileError, match=r"probe\.cu:18:\d+ does not compile: .*missing") as refused:
        emulator.run(probe("C[0] = missing;"), (8, 8, 8))
    assert refused.value.messages[0].line == 18


def test_a_header_with_the_wrong_operands_is_a_violation():
    kernel = probe("C[0] = 0;")
    found = violation(Kernel.parse(kernel.source.replace("const float* B, ", "")))
    assert str(found) == "arguments: the function takes 5 arguments, its header says 3 operands and M, N, K"


def test_inline_ptx_is_refused_with_its_line():
    with pytest.raises(Refused, match=r"kernel\.cu:18: inline PTX.*machine\.cuh"):
        emulator.run(probe('asm volatile("membar.gl;");'), (8, 8, 8))


def test_what_cannot_be_run_is_refused():
    with pytest.raises(Refused, match="near: greedy"):
        emulator.run(kernels()["fp32_naive"], (8, 8, 8), "gredy")
    with pytest.raises(Refused, match="small shapes"):
        emulator.run(kernels()["fp32_naive"], (16384, 16384, 64))
    for shape in ((3, 3), "3x3", (3, 3, 0), "1.5x2x3", "a"):
        with pytest.raises(Refused, match="is not MxNxK"):
            emulator.run(kernels()["fp32_naive"], shape)


def test_a_shape_may_be_a_text_and_all_schedules_have_one_limit():
    assert emulator.run(kernels()["fp32_naive"], "3x4x5").shape == (3, 4, 5)
    hangs = probe("volatile float* spin = C; while (!(*spin > 1)) {}\nC[threadIdx.x] = 1.0f;")
    found = emulator.fuzz(hangs, "8x8x8", timeout_s=0.1)
    assert [one.violations[0].kind for one in found] == ["time limit"] * len(SCHEDULES)


def test_without_a_compiler_the_message_says_how_to_get_one(monkeypatch):
    def none() -> None:
        raise NoCompiler('no C++ compiler here: pip install "workbench[cpp]" brings one')

    monkeypatch.setattr(emulator.source.cxx, "find_compiler", none)
    with pytest.raises(NoCompiler, match=r"workbench\[cpp\]"):
        emulator.run(probe("C[0] = 0;"), (8, 8, 8))


def test_a_seed_is_a_run():
    kernel = kernels()["fp32_tiled"]
    runs = [emulator.run(kernel, (20, 20, 20), "random", seed) for seed in (4, 4, 5)]
    assert (runs[0].output == runs[1].output).all()
    assert not (runs[0].output == runs[2].output).all()


def test_it_also_runs_where_there_is_no_assembly_for_the_switch(monkeypatch):
    monkeypatch.setattr(emulator.source, "FLAGS", (*emulator.source.FLAGS, "-DWORKBENCH_UCONTEXT"))
    kernel = kernels()["bf16_mma_async"]
    assert all(one.passed for one in emulator.fuzz(kernel, (33, 65, 70)))
    assert not all(
        one.passed for one in emulator.fuzz(kernel, (33, 65, 70), without=emulator.mutants(kernel)[-1])
    )


def test_on_other_systems_it_says_so(monkeypatch):
    monkeypatch.setattr(emulator.source.sys, "platform", "darwin")
    with pytest.raises(Refused, match="runs on Linux, not on darwin"):
        emulator.run(kernels()["fp32_naive"], (3, 4, 5))


def test_mutants_are_the_lines_that_synchronise():
    kernel = probe(
        "__syncthreads();  // __syncwarp();\n/* __syncthreads();\n*/ cp_async_wait<2>();\nC[0] = 0;"
    )
    assert emulator.mutants(kernel) == [Mutant(18, "__syncthreads();"), Mutant(20, "cp_async_wait<2>();")]


# One line of CUDA each, and what 64 threads t (two warps, lanes l) should then have written to C[t].
t = np.arange(64)
lane, first = t % 32, t // 32 * 32
LANGUAGE = {
    "__shfl_xor_sync(~0u, t, 5)": first + (lane ^ 5),
    "__shfl_sync(~0u, t, 35)": first + 3,
    "__shfl_sync(~0u, t, 2, 8)": t // 8 * 8 + 2,
    "__shfl_down_sync(~0u, t, 30)": np.where(lane < 2, t + 30, t),
    "__shfl_up_sync(~0u, t, 3)": np.where(lane >= 3, t - 3, t),
    "int(__ballot_sync(~0u, t % 3 == 0) & 0xFFFF)": np.where(first == 0, 0x9249, 0x2492),
    "__any_sync(~0u, t == 40) + 2 * __all_sync(~0u, t < 32)": np.where(first == 0, 2, 1),
    "__reduce_add_sync(~0u, t)": np.where(first == 0, 496, 1520),
    "__dp4a(int(0x01FF0302), t * 0x01010101, 7)": 5 * t + 7,
    "int(__byte_perm(0x33221100u, 0x77665544u, 0x7410u) >> 16)": 0x7744 + 0 * t,
    "int(__byte_perm(0x80u, 0u, 0x8888u) & 0xFFFF)": 0xFFFF + 0 * t,
    "__popc(t) * 100 + __ffs(t)": np.array(
        [bin(x).count("1") * 100 + (x & -x).bit_length() for x in map(int, t)]
    ),
    "__clz(t)": np.array([32 - int(x).bit_length() for x in map(int, t)]),
    "int(__funnelshift_r(0x10u, 0x1u, 4))": 0x10000001 + 0 * t,
    "int(lop3<0x6A>(0xF0F0u, 0x3C3Cu, 0xAAAAu))": ((0xF0F0 & 0x3C3C) ^ 0xAAAA) + 0 * t,
    "min(t, 9) + max(t, 50)": np.minimum(t, 9) + np.maximum(t, 50),
}


@pytest.fixture(scope="module")
def language() -> dict[str, np.ndarray]:
    lines = [f"C[{64 * i} + threadIdx.x] = ({text});" for i, text in enumerate(LANGUAGE)]
    kernel = probe("const int t = threadIdx.x;\n" + "\n".join(lines), "A fp32, B fp32, C int32")
    one = emulator.run(kernel, (len(LANGUAGE), 64, 1), "random")
    assert not one.violations
    return dict(zip(LANGUAGE, one.output, strict=True))


@pytest.mark.parametrize("text", LANGUAGE)
def test_the_language_is_cudas(text, language):
    assert list(language[text]) == list(LANGUAGE[text])


def test_half_precision_rounds_as_numpy_does():
    kernel = probe(
        "for (int i = threadIdx.x; i < M * N; i += 64) C[i] = __float2half_rn(A[i] * exp2f(float(i % 44 - 28)));",
        "A fp32, B fp32, C fp16",
    )
    one = emulator.run(kernel, (64, 64, 64))
    given = emulator._problem(kernel, (64, 64, 64), 0)[0].inputs["A"].ravel()
    scaled = given * np.exp2((np.arange(given.size) % 44 - 28).astype(np.float32))
    with np.errstate(over="ignore"):
        expected = scaled.astype(np.float16).astype(float)
    assert (one.output.ravel() == expected).all()
    assert (expected != 0).any()


def test_atomics_add_up_over_blocks():
    kernel = probe("atomicAdd(&C[threadIdx.x % 4], 1.0f);", grid="3")
    text = kernel.source.replace("// shapes: any", "// shapes: any\n// zeroed: C")
    one = emulator.run(Kernel.parse(text), (1, 4, 1), "random")
    assert list(one.output[0]) == [48] * 4
