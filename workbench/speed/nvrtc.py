"""Compile CUDA source to PTX and machine code on a machine without a GPU or a driver, through NVRTC.

The compiler's report (registers, shared memory, spills, stack) is read from its own log. Every compilation
runs in a child process with a time limit: a compiler that crashes or hangs ends, the notebook does not.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes.util
import functools
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Refused
from .compiling import CompileError, Message, NoCompiler, cache_folder

CHILD = Path(__file__).with_name("nvrtc_child.py")
HEADERS = Path(__file__).with_name("kernels")  # machine.cuh
INSTALL = 'pip install "workbench[nvrtc]"'


@dataclass(frozen=True)
class Resources:
    """What one entry function asks of the machine: registers per thread; static shared memory in bytes per
    block; spills and stack in bytes per thread."""

    registers: int = 0
    shared_bytes: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    stack_bytes: int = 0


@dataclass(frozen=True)
class Compiled:
    """Machine code for one architecture, and what it needs. `functions`: entry function -> Resources; the
    shortcuts beside it are the most that any of the entry functions takes."""

    arch: str
    ptx: str
    cubin: bytes = field(repr=False)
    log: str
    functions: dict[str, Resources]
    messages: tuple[Message, ...]  # warnings
    compile_ms: float
    compiler: str  # "NVRTC 13.0"

    @property
    def registers(self) -> int:
        return max((f.registers for f in self.functions.values()), default=0)

    @property
    def shared_bytes(self) -> int:
        return max((f.shared_bytes for f in self.functions.values()), default=0)

    @property
    def spill_stores(self) -> int:
        return max((f.spill_stores for f in self.functions.values()), default=0)

    @property
    def spill_loads(self) -> int:
        return max((f.spill_loads for f in self.functions.values()), default=0)

    @property
    def stack_bytes(self) -> int:
        return max((f.stack_bytes for f in self.functions.values()), default=0)


def compile_kernel(
    source: str,
    arch: str = "sm_80",
    options: Iterable[str] = (),
    *,
    name: str = "kernel.cu",
    timeout_s: float = 60.0,
) -> Compiled:
    """Compile CUDA C++ `source` for `arch` ("sm_80", "sm_90a"); `options` are NVRTC's own ("-lineinfo",
    "-DTILE=16"); `name` is what messages call the source. The same request is answered from memory, or from a
    file in the user's cache, the second time.

    CompileError: the source does not compile, or the compiler crashed or took longer than `timeout_s`
    seconds. NoCompiler: no NVRTC here. Refused: an architecture that this NVRTC does not build for.
    """
    if not re.fullmatch(r"sm_\d+[af]?", arch):
        raise Refused(f"architecture {arch!r} is not of the form sm_80 or sm_90a")
    return _compile(source, arch, tuple(options), name, find_nvrtc(), timeout_s)


def supported_architectures() -> list[str]:
    """What the NVRTC that is installed here builds for: ["sm_75", ..., "sm_121"]."""
    answer = _ask({"source": "", "name": "", "arch": "", "options": []}, find_nvrtc(), 60.0)
    return [f"sm_{number}" for number in answer["supported"]]


def find_nvrtc() -> str:
    """The NVRTC library: from the wheel nvidia-cuda-nvrtc (the newest, if there are two), else the system's.
    NoCompiler if there is none."""
    found = [path for folder in _wheel_folders() for path in sorted(folder.glob("libnvrtc.so*"))]
    if not found:
        homes = [os.environ.get(v) for v in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
        found = [path for home in homes if home for path in sorted(Path(home, "lib64").glob("libnvrtc.so*"))]
    if found:
        return str(found[0])
    if system := ctypes.util.find_library("nvrtc"):
        return system
    if sys.platform != "linux":
        raise NoCompiler(f"no CUDA compiler for {sys.platform}: on Linux {INSTALL} brings one, without a GPU")
    raise NoCompiler(f"no CUDA compiler here: {INSTALL} brings one (no GPU and no driver needed)")


@functools.lru_cache(maxsize=256)
def _compile(
    source: str, arch: str, options: tuple[str, ...], name: str, library: str, timeout_s: float
) -> Compiled:
    request = {"source": source, "name": name, "arch": arch, "options": [*options, *_include_options()]}
    kept = _kept(request, library)
    answer = _read(kept)
    if answer is None:
        answer = _ask(request, library, timeout_s)
        if "log" in answer and not answer["error"]:
            _keep(kept, answer)
    compiler = f"NVRTC {answer['version']}"
    if "log" not in answer:
        works = ", ".join(f"sm_{number}" for number in answer["supported"])
        raise Refused(f"{compiler} does not build for {arch}; it does for {works}")
    messages = _messages(answer["log"])
    if answer["error"]:
        raise CompileError(_first_line(name, arch, messages, answer), messages, answer["log"])
    return Compiled(
        arch=arch,
        ptx=answer["ptx"],
        cubin=base64.b64decode(answer["cubin"]),
        log=answer["log"],
        functions=_resources(answer["log"]),
        messages=messages,
        compile_ms=answer["compile_ms"],
        compiler=compiler,
    )


def _kept(request: dict, library: str) -> Path | None:
    """Where the answer to a request lies once it compiled: named by all that decides it, the text of our own headers
    and the compiler's file among them. None where there is no file that could tell one compiler from another."""
    from . import kernel

    try:
        found = os.stat(library)
    except OSError:
        return None
    told = [request, kernel.included(request["source"]), library, found.st_size, found.st_mtime_ns]
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]
    return cache_folder("nvrtc") / f"{key}.json"


def _read(kept: Path | None) -> dict | None:
    try:
        return json.loads(kept.read_text(encoding="utf-8")) if kept else None
    except (OSError, ValueError):  # not there, or not whole: compiled again
        return None


def _keep(kept: Path | None, answer: dict) -> None:
    if kept is None:
        return
    beside = kept.with_name(f"{kept.stem}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk costs time, not the result
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(answer), encoding="utf-8")
        os.replace(beside, kept)


def _ask(request: dict, library: str, timeout_s: float) -> dict:
    """One round trip to the child. Its death and its silence become a CompileError."""
    builtins = (
        next(iter(sorted(Path(library).parent.glob("libnvrtc-builtins.so*"))), "") if "/" in library else ""
    )
    request = {**request, "library": library, "builtins": str(builtins)}
    name = request["name"] or "NVRTC"
    try:
        done = subprocess.run(
            # -I: neither the environment nor the folder of the script decides what the child imports
            [sys.executable, "-I", str(CHILD)],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(
            f"{name}: the compiler was stopped after {timeout_s:g} s without a result"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CompileError(
            f"{name}: the compiler crashed (status {done.returncode}): {last}", log=done.stderr
        )
    answer = json.loads(done.stdout)
    if "broken" in answer:
        raise NoCompiler(
            f"the CUDA compiler {library} does not load: {answer['broken']}; {INSTALL} brings another"
        )
    return answer


def _wheel_folders() -> list[Path]:
    """Folders of the `nvidia` namespace package that hold libraries, newest CUDA first. Since 13 all wheels
    share nvidia/cu13/lib, before that each had its own, nvidia/cuda_nvrtc/lib."""
    roots = _nvidia_roots()
    shared = [path for root in roots for path in root.glob("cu[0-9]*/lib")]
    shared.sort(key=lambda path: int(path.parent.name[2:] or 0), reverse=True)
    return shared + [root / "cuda_nvrtc" / "lib" for root in roots]


def _nvidia_roots() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    return [Path(path) for path in (spec.submodule_search_locations or ())] if spec else []


def _include_options() -> list[str]:
    """Where cuda_fp16.h and its kind lie, if their wheel is installed beside the compiler's."""
    folders = [folder for root in _nvidia_roots() for folder in root.glob("cu[0-9]*/include")]
    folders += [root / "cuda_runtime" / "include" for root in _nvidia_roots()]
    folders += [folder / "cccl" for folder in folders]
    return [f"-I{folder}" for folder in [HEADERS, *folders] if folder.is_dir()]


# kernel.cu(3): error: identifier "yy" is undefined
_PLACED = re.compile(
    r"^(?P<file>.*)\((?P<line>\d+)\): (?P<severity>[a-z ]*error|warning)[^:]*: (?P<text>.*)$"
)
# "nvrtc: error: ...", "ptxas application ptx input, line 12; error   : ...": no line of the source is named
_UNPLACED = re.compile(r"^(?:nvrtc|ptxas).*?(?P<severity>error|fatal|warning)\s*: (?P<text>.*)$")


def _messages(log: str) -> tuple[Message, ...]:
    """The compiler's errors and warnings. Under each that has a place, the log repeats the source line and
    points at the column with a caret; both are indented by two characters."""
    lines, found = log.splitlines(), []
    for i, line in enumerate(lines):
        if match := _PLACED.match(line):
            caret = next((follow for follow in lines[i + 1 : i + 4] if follow.strip() == "^"), None)
            column = caret.index("^") - 1 if caret else None
            severity = "warning" if match["severity"] == "warning" else "error"
            found.append(Message(int(match["line"]), column, severity, match["text"]))
        elif match := _UNPLACED.match(line):
            severity = "warning" if match["severity"] == "warning" else "error"
            found.append(Message(None, None, severity, match["text"]))
    return tuple(found)


def _first_line(name: str, arch: str, messages: tuple[Message, ...], answer: dict) -> str:
    errors = [message for message in messages if message.severity == "error"]
    if not errors:
        return f"{name} does not compile for {arch}: {answer['log'].strip() or answer['error']}"
    first = errors[0]
    place = f"{name}:{first.line}:{first.column or 1}" if first.line else name
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if "cannot open source file" in first.text:
        more = f"; CUDA's own headers come with {INSTALL}"
    return f"{place} does not compile for {arch}: {first.text}{more}"


def _resources(log: str) -> dict[str, Resources]:
    """Entry function -> Resources, from the lines that ptxas -v prints."""
    functions: dict[str, Resources] = {}
    for part in log.split("Compiling entry function '")[1:]:
        functions[part.split("'")[0]] = Resources(
            registers=_number(r"Used (\d+) registers", part),
            shared_bytes=_number(r"(\d+) bytes smem", part),
            spill_stores=_number(r"(\d+) bytes spill stores", part),
            spill_loads=_number(r"(\d+) bytes spill loads", part),
            stack_bytes=_number(r"(\d+) bytes stack frame", part),
        )
    return functions


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0
