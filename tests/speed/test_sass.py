"""Machine code by source line: what nvdisasm prints is read, inlined wrappers are charged to their caller."""

from __future__ import annotations

import subprocess

import pytest

from workbench.errors import Refused
from workbench.speed import compile_kernel, kernels, sass
from workbench.speed.sass import Instruction, NoDisassembler, read_listing, read_live

PRINTED = """
//--------------------- .text.other          --------------------------
\t.section\t.text.other,"ax",@progbits
other:
\t//## File "/a/k.cu", line 99
        /*0000*/                   EXIT ;
//--------------------- .text.k          --------------------------
\t.section\t.text.k,"ax",@progbits
k:
\t//## File "/a/machine.cuh", line 11 inlined at "/a/machine.cuh", line 126
\t//## File "/a/machine.cuh", line 126 inlined at "/a/k.cu", line 7
\t//## File "/a/k.cu", line 7
        /*0000*/                   LDGSTS.E.BYPASS.128 [R2], [R4.64] ;
        /*0010*/              @!P1 LDG.E   R26, [R22.64] ;
.L_x_1:
\t//## File "/a/k.cu", line 9
        /*0020*/                   HFMA2.MMA R25, -RZ, RZ, 0, 0 ;
        /*0030*/                   HFMA2 R25, R1, R2, R3 ;
        /*0040*/                   IMAD.MOV.U32 R25, RZ, RZ, RZ ;
\t//## File "/a/elsewhere.h", line 3
        /*0050*/                   FROBNICATE R1 ;
        /*0060*/                   NOP ;
        /*0070*/                   NOP ;
"""
RANGES = """
\t.section\t.text.k,"ax",@progbits
        /*0000*/                   LDGSTS.E.BYPASS.128 [R2], [R4.64] ;      // |  12  |   1    |
        /*0010*/              @!P1 LDG.E R26, [R22.64] ;                    // |      |   1    |
        /*0020*/                   HFMA2.MMA R25, -RZ, RZ, 0, 0 ;           // |  14  |        |
"""


@pytest.fixture
def disassembler(compiler) -> str:
    try:
        return sass.find_nvdisasm()
    except NoDisassembler as error:
        pytest.skip(str(error))


def test_an_inlined_wrapper_is_charged_to_the_line_that_called_it():
    made = read_listing(PRINTED, "k", read_live(RANGES, "k"))
    assert [one.line for one in made] == [7, 7, 9, 9, 9, None]
    assert made[0].wrapper == "machine.cuh:11"
    assert made[2].wrapper == ""
    assert made[5].wrapper == "elsewhere.h:3"
    assert [one.live for one in made[:3]] == [12, 0, 14]
    assert made[1].opcode == "LDG.E"
    assert made[1].text == "@!P1 LDG.E R26, [R22.64]"


def test_every_instruction_has_a_kind_and_padding_is_none():
    made = read_listing(PRINTED, "k")
    assert [one.kind for one in made] == ["global memory", "global memory", "move", "float", "move", "other"]
    assert read_listing(PRINTED, "absent") == ()


def test_no_mnemonic_has_two_kinds():
    words = [word for words in sass.KINDS.values() for word in words]
    assert len(words) == len(set(words))
    assert Instruction(0, "@P0 STL [R1], R2", 3).kind == "spill (local memory)"


def test_the_loop_of_the_tiled_kernel_is_products_and_reads_of_shared_memory(disassembler):
    kernel = kernels()["fp32_tiled"]
    compiled = compile_kernel(kernel.source, "sm_80", sass.OPTIONS, name="fp32_tiled.cu")
    made = sass.listing(compiled, "fp32_tiled")
    lines = kernel.source.split("\n")
    inner = next(n for n, line in enumerate(lines, 1) if "sum +=" in line)
    barriers = [n for n, line in enumerate(lines, 1) if "__syncthreads" in line]
    assert made.by_line()[inner]["float"] == 32  # the loop over TILE = 32 is unrolled
    assert made.by_line()[inner]["shared memory"] >= 32
    assert all(made.by_line()[line]["wait"] == 1 for line in barriers)
    assert made.count("FFMA") == 32
    assert made.missing(("FFMA", "LDS", "HMMA")) == ("HMMA",)
    assert sum(made.mix().values()) == len(made.instructions)
    assert 0 < max(made.live().values()) <= compiled.functions["fp32_tiled"].registers
    assert sass.listing(compiled, "fp32_tiled") is made  # once is enough


def test_wrappers_of_machine_cuh_are_the_kernels_own_lines(disassembler):
    kernel = kernels()["bf16_mma_async"]
    compiled = compile_kernel(kernel.source, "sm_80", sass.OPTIONS, name="bf16_mma_async.cu")
    made = sass.listing(compiled, "bf16_mma_async")
    tensor = [one for one in made.instructions if one.kind == "tensor core"]
    lines = kernel.source.split("\n")
    assert tensor
    assert all(one.wrapper.startswith("machine.cuh:") and "mma_" in lines[one.line - 1] for one in tensor)


def test_a_spill_is_seen_in_the_machine_code(disassembler):
    source = """extern "C" __global__ void __launch_bounds__(1024, 2) spill(float* x, int n) {
    float a[64];
    for (int i = 0; i < 64; ++i) a[i] = x[i * n + threadIdx.x];
    for (int k = 0; k < n; ++k)
        for (int i = 0; i < 64; ++i) a[i] = a[i] * a[(i + 1) % 64] + a[(i + 7) % 64];
    for (int i = 0; i < 64; ++i) x[i * n + threadIdx.x] = a[i];
}
"""
    compiled = compile_kernel(source, "sm_80", sass.OPTIONS, name="spill.cu")
    assert compiled.functions["spill"].spill_stores > 0
    assert sass.listing(compiled, "spill").mix()["spill (local memory)"] > 0
    with pytest.raises(Refused, match="no function of that name"):
        sass.listing(compiled, "other")


def test_without_nvdisasm_the_way_to_one_is_said(monkeypatch):
    monkeypatch.setattr(sass, "_nvidia_roots", lambda: [])
    monkeypatch.setattr(sass.shutil, "which", lambda _: None)
    monkeypatch.setattr(sass.Path, "is_file", lambda _: False)
    with pytest.raises(NoDisassembler, match="pip install"):
        sass.find_nvdisasm()


def test_what_nvdisasm_cannot_read_or_finish_is_refused(monkeypatch, disassembler):
    with pytest.raises(Refused, match="does not read this machine code"):
        sass._listing(b"no ELF at all", "sm_80", "k", disassembler, 30.0)

    def hang(*_arguments, timeout, **_keywords):
        raise subprocess.TimeoutExpired("nvdisasm", timeout)

    monkeypatch.setattr(sass.subprocess, "run", hang)
    with pytest.raises(Refused, match=r"stopped after 0\.1 s"):
        sass._listing(b"\x7fELF", "sm_80", "k", disassembler, 0.1)
    monkeypatch.undo()
    with pytest.raises(NoDisassembler, match="does not start"):
        sass._listing(b"\x7fELF", "sm_80", "k", "/no/such/nvdisasm", 1.0)
