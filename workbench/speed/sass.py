"""The machine code of a kernel, instruction by instruction, each beside the line of the source that asked for it.

nvdisasm reads the cubin that NVRTC made with `-lineinfo`; neither needs a GPU. An instruction of an inlined wrapper
is charged to the line that called it, however deep. nvdisasm runs as a process of its own with a time limit.

from workbench.speed import compile_kernel, kernels, sass
kernel = kernels()["fp32_tiled"]
listing = sass.listing(compile_kernel(kernel.source, "sm_90", sass.OPTIONS, name="fp32_tiled.cu"), "fp32_tiled")
listing.by_line()[39].most_common(3)
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from .nvrtc import INSTALL, Compiled, _nvidia_roots

OPTIONS = ("-lineinfo",)  # what a source has to be compiled with, so that its lines are known

# Kind -> mnemonics, as far as their first dot. What is in none of them is "other".
KINDS: dict[str, frozenset[str]] = {
    kind: frozenset(words.split())
    for kind, words in {
        "tensor core": "HMMA IMMA DMMA BMMA QMMA OMMA HGMMA IGMMA QGMMA BGMMA UTCHMMA UTCIMMA UTCQMMA",
        "float": "FFMA FFMA2 FADD FADD2 FMUL FMUL2 FSEL FMNMX FSETP FSET FCHK HFMA2 HADD2 HMUL2 HMNMX2 HSETP2 DFMA "
        "DADD DMUL DSETP MUFU",
        "convert": "F2F F2I I2F F2FP I2FP I2I F2IP I2IP FRND PRMT",
        "integer": "IMAD IADD IADD3 IMUL ISETP IABS IMNMX LEA LOP3 LOP SHF SHL SHR SEL POPC FLO BREV BMSK SGXT IDP "
        "VIADD VIADDMNMX VIMNMX XMAD PLOP3 UIMAD UIADD3 ULEA ULOP3 USHF UISETP USEL UPRMT UPOPC UFLO USGXT UPLOP3",
        "global memory": "LDG STG LDGSTS LD ST RED ATOM ATOMG REDG UTMALDG UTMASTG UTMAREDG UBLKCP UTMAPF",
        "shared memory": "LDS STS LDSM STSM ATOMS MATCH SHFL",
        "spill (local memory)": "LDL STL",
        "wait": "BAR SYNCS DEPBAR LDGDEPBAR WARPSYNC WARPGROUP ERRBAR MEMBAR FENCE UTMACMDFLUSH NANOSLEEP VOTE VOTEU "
        "CCTL ARRIVES ELECT UCGABAR_ARV UCGABAR_WAIT WARPGROUPSET USETMAXREG",
        "branch": "BRA BRX JMP CALL RET EXIT BSSY BSYNC BREAK BMOV KILL RPCMOV NOP YIELD",
        "move": "MOV UMOV S2R S2UR CS2R LDC ULDC R2UR R2P P2R UP2UR LDCU",
    }.items()
}


class NoDisassembler(Refused):
    """There is no nvdisasm on this machine. The message says how to get one."""


@dataclass(frozen=True)
class Instruction:
    """One instruction. `line` of the kernel's own source that it is charged to, from 1, None where there is none;
    `wrapper`: the place in a header that it was inlined from, "machine.cuh:126", "" if it was not; `live`: registers
    that hold something a later instruction reads."""

    address: int
    text: str  # "@!P1 LDG.E R26, [R22.64]"
    line: int | None
    wrapper: str = ""
    live: int = 0

    @property
    def opcode(self) -> str:
        """ "LDG.E", without the predicate."""
        words = self.text.split()
        return words[1] if words[0].startswith("@") else words[0]

    @property
    def kind(self) -> str:
        """One of KINDS, or "other"."""
        opcode = self.opcode
        word = opcode.partition(".")[0]
        # two units that also carry constants about: a sum or product with nothing is a move
        if opcode.startswith("IMAD.MOV") or (word == "HFMA2" and "-RZ, RZ" in self.text):
            return "move"
        return next((kind for kind, words in KINDS.items() if word in words), "other")


@dataclass(frozen=True)
class Listing:
    """The machine code of one kernel."""

    kernel: str
    arch: str
    instructions: tuple[Instruction, ...]

    def by_line(self) -> dict[int, Counter[str]]:
        """Line of the source -> how many instructions of which kind, in order of lines."""
        found: dict[int, Counter[str]] = {}
        for one in self.instructions:
            if one.line is not None:
                found.setdefault(one.line, Counter())[one.kind] += 1
        return dict(sorted(found.items()))

    def mix(self) -> Counter[str]:
        """Kind -> how many instructions."""
        return Counter(one.kind for one in self.instructions)

    def live(self) -> dict[int, int]:
        """Line of the source -> the most registers that are live at one of its instructions."""
        most: dict[int, int] = {}
        for one in self.instructions:
            if one.line is not None:
                most[one.line] = max(most.get(one.line, 0), one.live)
        return dict(sorted(most.items()))

    def count(self, mnemonic: str) -> int:
        """How often an instruction occurs: "HMMA" counts HMMA.16816.F32.BF16, too."""
        return sum(
            one.opcode == mnemonic or one.opcode.startswith(f"{mnemonic}.") for one in self.instructions
        )

    def missing(self, mnemonics: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the mnemonics that do not occur."""
        return tuple(word for word in mnemonics if not self.count(word))


def listing(
    compiled: Compiled, kernel: str, *, source: str | None = None, timeout_s: float = 30.0
) -> Listing:
    """The machine code of the function `kernel`, whose source was compiled with OPTIONS under the name `source`, by
    default `<kernel>.cu`. NoDisassembler: no nvdisasm here. Refused: it cannot read this machine code, or took longer
    than `timeout_s` seconds, or there is no such function."""
    return _listing(compiled.cubin, compiled.arch, kernel, find_nvdisasm(), timeout_s, source)


def find_nvdisasm() -> str:
    """The program: from the wheel nvidia-cuda-nvdisasm (the newest CUDA's, if there are two), else of the system."""
    found = [path for root in _nvidia_roots() for path in root.glob("cu[0-9]*/bin/nvdisasm")]
    found.sort(key=lambda path: int(path.parts[-3][2:] or 0), reverse=True)
    homes = [os.environ.get(v) for v in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    found += [path for home in homes if home and (path := Path(home, "bin", "nvdisasm")).is_file()]
    if found:
        return str(found[0])
    if system := shutil.which("nvdisasm"):
        return system
    raise NoDisassembler(f"no nvdisasm here, which shows machine code: {INSTALL} brings one (no GPU needed)")


@functools.lru_cache(maxsize=128)
def _listing(
    cubin: bytes, arch: str, kernel: str, program: str, timeout_s: float, source: str | None = None
) -> Listing:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        asked = ["-gi"], ["-plr", "-lrm", "count"]  # it prints lines or live ranges, never both
        with ThreadPoolExecutor(len(asked)) as pool:
            answers = pool.map(lambda more: _ask([program, *more, "-c", file.name], kernel, timeout_s), asked)
            lines, ranges = answers
    found = read_listing(lines, kernel, read_live(ranges, kernel), source=source)
    if not found:
        raise Refused(f"{kernel}: the machine code holds no function of that name")
    return Listing(kernel, arch, found)


def _ask(command: list[str], kernel: str, timeout_s: float) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"{kernel}: nvdisasm was stopped after {timeout_s:g} s without a result") from None
    except OSError as error:
        raise NoDisassembler(
            f"{command[0]} does not start: {error.strerror}; {INSTALL} brings another"
        ) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Refused(f"{kernel}: nvdisasm ({command[0]}) does not read this machine code: {said}")
    return done.stdout


# /*0010*/   @!P1 LDG.E R26, [R22.64] ;   // |  129  |  1  |
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;\s*(?://\s*\|\s*(\d*)\s*\|.*)?$")
# //## File "/a/machine.cuh", line 126 inlined at "/a/kernel.cu", line 76
_PLACE = re.compile(r'^\s*//## File "([^"]*)", line (\d+)')
_SECTION = re.compile(r"^\s*\.section\s+\.text\.([^\s,]+)")


def read_listing(
    text: str, kernel: str, live: dict[int, int] | None = None, *, source: str | None = None
) -> tuple[Instruction, ...]:
    """The instructions of `kernel` in what `nvdisasm -gi -c` prints. A run of places before an instruction is a chain
    of calls, the innermost first; it holds until the next run."""
    source, live = source or f"{kernel}.cu", live or {}
    found: list[Instruction] = []
    chain: list[tuple[str, int]] = []
    inside = ended = False
    for line in text.splitlines():
        if section := _SECTION.match(line):
            inside, chain = section[1] == kernel, []
        elif place := _PLACE.match(line):
            chain = [*([] if ended else chain), (Path(place[1]).name, int(place[2]))]
            ended = False
        elif inside and (match := _INSTRUCTION.match(line)):
            ended = True
            own = next((number for name, number in reversed(chain) if name == source), None)
            wrapper = "" if not chain or chain[0][0] == source else f"{chain[0][0]}:{chain[0][1]}"
            address = int(match[1], 16)
            found.append(
                Instruction(address, re.sub(r"\s+", " ", match[2]), own, wrapper, live.get(address, 0))
            )
    while found and found[-1].opcode == "NOP":  # what fills the last line of the instruction cache
        found.pop()
    return tuple(found)


def read_live(text: str, kernel: str) -> dict[int, int]:
    """Address -> live registers, from what `nvdisasm -plr -lrm count` prints of `kernel`."""
    live: dict[int, int] = {}
    inside = False
    for line in text.splitlines():
        if section := _SECTION.match(line):
            inside = section[1] == kernel
        elif inside and (match := _INSTRUCTION.match(line)) and match[3]:
            live[int(match[1], 16)] = int(match[3])
    return live
