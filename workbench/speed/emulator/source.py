"""A CUDA source as a C++ library that runs it on the CPU, and the places in it that synchronise."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ...errors import Refused
from .. import cxx
from ..kernel import FOLDER, Kernel

INCLUDE = Path(__file__).with_name("include")
FLAGS = (
    *("-w", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-fno-stack-protector"),
    "-fno-threadsafe-statics",  # fibers do not interrupt one another
)
SYNCHRONISATIONS = (
    "__syncthreads",
    "__syncwarp",
    "bar_sync",
    "bar_arrive",
    "cp_async_commit",
    "cp_async_wait",
    "mbarrier_expect",
    "mbarrier_arrive",
    "mbarrier_wait",
    "wgmma_fence",
    "wgmma_commit",
    "wgmma_wait",
)
_CALL = re.compile(rf"\b(?:{'|'.join(SYNCHRONISATIONS)})\b(?:<[^>]*>)?\(")
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+(?:(?:__align__|alignas)\([^)]*\)\s*)?([A-Za-z_][\w: ]*?)\s+(\w+)\[\]\s*;"
)
_STATIC = re.compile(r"\b__shared__\b([^;{}=]*);")
_DECLARED = re.compile(r"(\w+)\s*(?:\[[^\[\]]*\]\s*)*$")  # name[SIZE][SIZE] at the end of a declaration


@dataclass(frozen=True)
class Mutant:
    """A kernel without the synchronisation of one line (from 1); `text` is that line."""

    line: int
    text: str


def mutants(kernel: Kernel) -> list[Mutant]:
    """One for each line of the kernel that synchronises: barriers, waits, and what waits depend on."""
    lines = _without_comments(kernel.source).splitlines()
    return [Mutant(n, line.strip()) for n, line in enumerate(lines, start=1) if _CALL.search(line)]


def build(kernel: Kernel, *, races: bool = False) -> Path:
    """The library, compiled now or found in the cache; with `races` one that looks for races in shared memory, some
    times slower. CompileError with the line of the kernel's source; NoCompiler with the way to one; Refused where the
    emulator does not work or cannot know what would happen."""
    if sys.platform != "linux":
        raise Refused(
            f"the emulator of CUDA kernels runs on Linux, not on {sys.platform}; NVRTC's report does not need it"
        )
    if match := re.search(r"^.*\basm\b(?:\s+volatile)?\s*\(.*$", kernel.source, re.MULTILINE):
        line = kernel.source[: match.start()].count("\n") + 1
        raise Refused(
            f"{kernel.where}:{line}: inline PTX cannot run on the CPU; machine.cuh wraps what kernels need of it"
        )
    name = f"{kernel.name}.cu"
    text = "\n".join(
        [
            '#include "launch.h"',
            f'#line 1 "{name}.cpp"',
            _for_the_cpu(kernel.source),
            '#line 1 "launch"',
            f"WORKBENCH_KERNEL({kernel.name})",
            "",
        ]
    )
    flags = [*FLAGS, *_bounds(), *(_watched() if races else ())]
    return cxx.build(text, name=name, flags=flags, include=[INCLUDE, FOLDER])


def _for_the_cpu(source: str) -> str:
    """The few things that no macro can turn into C++; lines stay lines."""
    source = re.sub(r"^[ \t]*#[ \t]*include[ \t]*<mma\.h>", '#include "wmma.h"', source, flags=re.MULTILINE)
    source = re.sub(r"^[ \t]*#[ \t]*include[ \t]*<cuda\w*\.h>", "", source, flags=re.MULTILINE)
    return _fenced(_DYNAMIC.sub(r'\1* \2 = emu::dynamic<\1>("\2");', source))


def _without_comments(source: str) -> str:
    """The same text with blanks in the place of comments: every character stays where it is."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), source, flags=re.DOTALL)


def _fenced(source: str) -> str:
    """Behind the static arrays of each declaration in shared memory lies a fence that the emulator looks at: who
    leaves an array through a pointer is seen, and the arrays have their names in the message."""
    code = _without_comments(source)
    found = [(match.end(), _declared(match[1])) for match in _STATIC.finditer(code)]
    tight = str(all(names for _, names in found)).lower()
    made, done = [], 0
    for place, (end, names) in enumerate(found):
        if names:
            fence = f"emu_fence_{place}"
            told = [f'emu::known("{name}", {name})' for name in names]
            told.append(f"emu::fenced({fence}, {tight})")
            laid = f" EMU_FENCE {fence}[emu::FENCE]; static const bool {fence}_laid = {' && '.join(told)};"
            made += [source[done:end], laid]
            done = end
    return "".join([*made, source[done:]])


def _declared(text: str) -> list[str]:
    """The names in "float a[2][3], b"; none where one of them is more than a name and sizes."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    names = [match[1] for part in parts if (match := _DECLARED.search(part.strip()))]
    return names if len(names) == len(parts) else []


def _bounds() -> list[str]:
    """Arrays of known size, in shared memory or registers, trap where an index leaves them."""
    return [
        "-fsanitize=bounds",
        "-fsanitize-trap=bounds" if _clang() else "-fsanitize-undefined-trap-on-error",
    ]


def _watched() -> list[str]:
    """A call before each load and store, and line numbers. Both compilers have these calls for tools of their own; here
    races.h answers them."""
    if _clang():
        calls = (
            "-fsanitize-coverage-type=1",
            "-fsanitize-coverage-trace-loads",
            "-fsanitize-coverage-trace-stores",
        )
        told = [word for call in calls for word in ("-Xclang", call)]
    else:
        # by default the linker would bring the tool itself along
        libraries = ("-lstdc++", "-lm", "-lgcc_s", "-lgcc", "-lc")
        told = ["-fsanitize=thread", "-nodefaultlibs", "-Wl,--no-as-needed", *libraries]
    return ["-DWORKBENCH_RACES=1", "-g1", *told]


def _clang() -> bool:
    compiler = cxx.find_compiler()
    return compiler.zig or "clang" in compiler.identity
