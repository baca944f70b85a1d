"""The CUDA compiler without a GPU: what it makes, what it reports, and how it fails."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.errors import Refused
from workbench.speed import CompileError, NoCompiler, compile_kernel, kernels, nvrtc, supported_architectures
from workbench.speed.kernel import MOST_SHARED

BROKEN = """extern "C" __global__ void broken(float* x) {
    int unused = 0;
\tx[0] = missing;
}
"""
SPILLING = """extern "C" __global__ void __launch_bounds__(1024) spilling(float* x) {
    float v[200];
    for (int i = 0; i < 200; ++i) v[i] = x[i * 1024 + threadIdx.x];
    #pragma unroll
    for (int r = 0; r < 4; ++r) {
        #pragma unroll
        for (int i = 0; i < 200; ++i) v[i] = v[i] * v[(i * 7 + 3) % 200] + v[(i + 1) % 200];
    }
    for (int i = 0; i < 200; ++i) x[i * 1024 + threadIdx.x] = v[i];
}
"""


CASES = [(name, arch) for name, kernel in kernels().items() for arch in kernel.architectures]


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("name", "arch"), CASES)
def test_every_kernel_compiles_within_its_budget_and_without_spills(name, arch):
    kernel = kernels()[name]
    compiled = compile_kernel(kernel.source, arch, name=f"{name}.cu")
    own = compiled.functions[name]
    assert (own.spill_stores, own.spill_loads, own.stack_bytes) == (0, 0, 0)
    assert 0 < own.registers <= kernel.registers
    threads = math.prod(kernel.launch(256, 256, 256)[1])
    assert (
        -(-own.registers // 8) * 8 * threads <= 65536
    )  # a multiprocessor's registers: one block at least fits
    assert own.shared_bytes + kernel.launch(256, 256, 256)[2] <= MOST_SHARED[arch]
    assert f".target {arch}" in compiled.ptx
    assert compiled.cubin.startswith(b"\x7fELF")
    assert compiled.compile_ms > 0


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("name", "arch"), CASES)
def test_every_kernel_has_the_instructions_that_it_is_about(name, arch, tmp_path):
    kernel = kernels()[name]
    made = mnemonics(compile_kernel(kernel.source, arch, name=f"{name}.cu").cubin, tmp_path)
    missing = [
        wanted for wanted in kernel.requires if not any(f"{one}.".startswith(f"{wanted}.") for one in made)
    ]
    assert not missing
    assert "EXIT" in made  # the listing is one


def mnemonics(cubin: bytes, folder: Path) -> set[str]:
    """The instructions of the machine code, with their modifiers: {"HMMA.16816.F32.BF16", ...}."""
    spec = importlib.util.find_spec("nvidia")
    homes = [Path(home) for home in (spec.submodule_search_locations or ())] if spec else []
    tool = next((str(p) for home in homes for p in home.glob("cu*/bin/nvdisasm")), None) or shutil.which(
        "nvdisasm"
    )
    if not tool:
        pytest.skip('no nvdisasm here: pip install "workbench[nvrtc]" brings it')
    (folder / "code.cubin").write_bytes(cubin)
    done = subprocess.run(
        [tool, "-c", folder / "code.cubin"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(
        re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", done.stdout, re.MULTILINE)
    )


@pytest.mark.usefixtures("compiler")
def test_a_kernel_for_one_architecture_says_what_is_missing_on_another():
    with pytest.raises(CompileError, match=r"undefined|sm_90"):
        compile_kernel(kernels()["bf16_wgmma"].source, "sm_80")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "header", ["cuda_fp16.h", "cuda_bf16.h", "mma.h", "cuda/std/cstdint", "cooperative_groups.h"]
)
def test_the_headers_of_the_extra_compile(header):
    if not any("include" in option for option in nvrtc._include_options()):
        pytest.skip('no CUDA headers here: pip install "workbench[nvrtc]" brings them')
    source = f'#include <{header}>\nextern "C" __global__ void f(int* x) {{ x[0] = 1; }}'
    assert compile_kernel(source, "sm_80").functions.keys() == {"f"}


@pytest.mark.usefixtures("compiler")
def test_without_cudas_headers_the_message_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr(nvrtc, "_include_options", lambda: [f"-I{nvrtc.HEADERS}"])
    with pytest.raises(CompileError, match=r'cuda_bf16\.h.*pip install "workbench\[nvrtc\]"'):
        compile_kernel(kernels()["bf16_mma"].source, "sm_80", ["-DASKED_WITHOUT_HEADERS"])


@pytest.mark.usefixtures("compiler")
def test_what_compiled_once_is_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    source = 'extern "C" __global__ void f(int* x) { x[0] = 4711; }'
    first = compile_kernel(source)
    nvrtc._compile.cache_clear()
    monkeypatch.setattr(nvrtc, "CHILD", tmp_path / "none.py")  # whoever asks the compiler now fails
    assert compile_kernel(source) == first
    with pytest.raises(CompileError):
        compile_kernel(source.replace("4711", "4712"))
    kept = next(tmp_path.rglob("*.json"))
    kept.write_text(kept.read_text()[:100])  # a file that is not whole is not believed
    nvrtc._compile.cache_clear()
    with pytest.raises(CompileError):
        compile_kernel(source)


@pytest.mark.usefixtures("compiler")
def test_the_report_is_the_compilers():
    compiled = compile_kernel(kernels()["fp32_tiled"].source, "sm_80")
    assert compiled.shared_bytes == 2 * 32 * 32 * 4
    assert f"Used {compiled.registers} registers" in compiled.log


@pytest.mark.usefixtures("compiler")
def test_spills_are_seen():
    compiled = compile_kernel(SPILLING, "sm_80")
    assert compiled.spill_stores > 0
    assert compiled.spill_loads > 0
    assert compiled.stack_bytes > 0


@pytest.mark.usefixtures("compiler")
def test_a_source_that_does_not_compile_names_its_line_and_column():
    with pytest.raises(CompileError, match=r'broken\.cu:3:9 .*"missing" is undefined') as refused:
        compile_kernel(BROKEN, name="broken.cu")
    errors = [message for message in refused.value.messages if message.severity == "error"]
    warnings = [message for message in refused.value.messages if message.severity == "warning"]
    assert [(error.line, error.column) for error in errors] == [(3, 9)]
    assert [warning.line for warning in warnings] == [2]


@pytest.mark.usefixtures("compiler")
def test_an_error_of_the_assembler_has_no_line_in_the_source():
    with pytest.raises(CompileError, match=r"\.bar") as refused:
        compile_kernel('__global__ void f() { asm("foo.bar;"); }')
    assert refused.value.messages[0].line is None


@pytest.mark.usefixtures("compiler")
def test_options_reach_the_compiler():
    source = 'extern "C" __global__ void f(int* x) { x[0] = SIZE; }'
    assert compile_kernel(source, options=["-DSIZE=77"]).functions.keys() == {"f"}
    with pytest.raises(CompileError, match="SIZE"):
        compile_kernel(source)
    with pytest.raises(CompileError, match="--nonsense"):
        compile_kernel(source, options=["--nonsense"])


@pytest.mark.usefixtures("compiler")
def test_an_architecture_that_it_does_not_build_for_is_refused_with_those_it_does():
    with pytest.raises(Refused, match=r"sm_30.*sm_80"):
        compile_kernel(BROKEN, "sm_30")
    assert {"sm_80", "sm_90"} <= set(supported_architectures())


def test_a_word_that_is_no_architecture_is_refused():
    with pytest.raises(Refused, match=r"'hopper'.*sm_80"):
        compile_kernel(BROKEN, "hopper")


def test_without_a_compiler_the_message_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(nvrtc, "_wheel_folders", lambda: [])
    monkeypatch.setattr(nvrtc.Path, "glob", lambda self, pattern: iter(()))
    monkeypatch.setattr(nvrtc.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(NoCompiler, match=r'pip install "workbench\[nvrtc\]"'):
        compile_kernel(BROKEN)


@pytest.mark.parametrize("layout", ["cu13/lib", "cuda_nvrtc/lib"])
def test_both_layouts_of_the_wheel_are_found(layout, tmp_path, monkeypatch):
    library = tmp_path / layout / "libnvrtc.so.12"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.setattr(nvrtc, "_nvidia_roots", lambda: [tmp_path])
    assert nvrtc.find_nvrtc() == str(library)


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Replaces the process that compiles by a few lines of Python."""
    monkeypatch.setattr(nvrtc, "find_nvrtc", lambda: "libnvrtc.so")
    monkeypatch.setattr(nvrtc, "CHILD", tmp_path / "child.py")
    nvrtc._compile.cache_clear()
    yield (tmp_path / "child.py").write_text
    nvrtc._compile.cache_clear()


def test_a_compiler_that_hangs_is_stopped(child):
    child("import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(CompileError, match=r"stopped after 0\.5 s"):
        compile_kernel(BROKEN, timeout_s=0.5)
    assert time.monotonic() - began < 10


def test_a_compiler_that_crashes_leaves_us_alive(child):
    child("import os; os.abort()")
    with pytest.raises(CompileError, match="crashed"):
        compile_kernel(BROKEN)


def test_a_library_that_does_not_load_is_said(monkeypatch, tmp_path):
    (tmp_path / "libnvrtc.so").write_bytes(b"not a library")
    monkeypatch.setattr(nvrtc, "find_nvrtc", lambda: str(tmp_path / "libnvrtc.so"))
    with pytest.raises(NoCompiler, match="does not load"):
        compile_kernel(BROKEN)


def test_the_child_needs_nothing_but_the_standard_library():
    text = Path(nvrtc.CHILD).read_text()
    imported = {
        line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))
    }
    assert imported <= set(sys.stdlib_module_names)
