"""Compile C++17 to a shared library at its first use, and find it in a cache ever after.

The compiler is $CXX, else g++ or clang++ of the system, else the wheel `ziglang`, which is a whole clang: its very
first compilation takes up to a minute, because it builds its own runtime. A library is named by its content: the
source, every file of ours that it includes, the flags and the compiler. So an edited header is compiled again, and
nothing ever has to be cleared. Libraries are written beside and renamed: two processes that build the same one at
the same time both end with a whole one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .compiling import CompileError, Message, NoCompiler, cache_folder

INSTALL = 'pip install "workbench[cpp]"'
ALWAYS = ("-std=c++17", "-O2", "-shared", "-fPIC")
ZIG_S = 900.0  # seconds that ziglang may take: a minute of its own runtime, more where other work shares the machine
ZIG = ("-fno-sanitize=undefined",)  # zig adds traps of its own, which cost half the speed
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: how it is called, and a line that changes with its version."""

    command: tuple[str, ...]
    identity: str

    @property
    def zig(self) -> bool:
        return "ziglang" in self.command


@dataclass(frozen=True)
class Built:
    """A shared library in the cache. `compile_s`: what its first use cost, 0 where it was there already;
    `messages`: the compiler's warnings, known only at the first use."""

    path: Path
    compile_s: float
    compiler: str
    messages: tuple[Message, ...] = ()


def build(
    source: str,
    *,
    name: str,
    flags: Sequence[str] = (),
    include: Sequence[Path] = (),
    timeout_s: float = 120.0,
) -> Path:
    """The shared library of `source`, compiled now or found in the cache; errors as in `compile_library`."""
    built = compile_library(source, name=name, flags=flags, include=include, timeout_s=timeout_s)
    return built.path


def compile_library(
    source: str,
    *,
    name: str,
    flags: Sequence[str] = (),
    include: Sequence[Path] = (),
    timeout_s: float = 120.0,
) -> Built:
    """As `build`, with what it cost. `name` is what messages call the source ("cpu_dot.cpp"); `flags` come after
    -std=c++17 -O2 -shared -fPIC and so can overrule them; `include` are folders for #include "...".

    NoCompiler: there is none here. CompileError: the source does not compile, with the compiler's messages, or
    the compiler took longer than `timeout_s` seconds (ziglang is given more, for its first time).
    """
    compiler = find_compiler()
    stem = re.sub(r"\W+", "-", Path(name).stem).strip("-") or "source"
    path = cache_folder("cxx") / f"{stem}-{_key(source, tuple(flags), tuple(include), compiler)}{_suffix()}"
    if path.exists():
        return Built(path, 0.0, compiler.identity)
    began = time.perf_counter()
    limit = max(timeout_s, ZIG_S) if compiler.zig else timeout_s
    messages = _compile(source, name, [*flags, *(f"-I{folder}" for folder in include)], compiler, path, limit)
    seconds = time.perf_counter() - began
    LOG.info("%s: compiled in %.1f s by %s, kept as %s", name, seconds, compiler.identity, path)
    return Built(path, seconds, compiler.identity, messages)


def find_compiler() -> Compiler:
    """$CXX, g++, clang++ or the wheel `ziglang`, the first that answers. NoCompiler if none does."""
    return _find(os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=8)
def _find(named: str, path: str) -> Compiler:
    """`path` is a part of the question only so that a changed PATH is looked through again."""
    for command in ([shlex.split(named)] if named else []) + [["g++"], ["clang++"]]:
        if found := shutil.which(command[0], path=path):
            identity = _identity([found, *command[1:]])
            if identity:
                return Compiler((found, *command[1:]), identity)
    if importlib.util.find_spec("ziglang"):
        command = (sys.executable, "-m", "ziglang", "c++")
        if identity := _identity(command):
            return Compiler(command, f"ziglang {identity}")
    wanted = f" ($CXX is {named!r})" if named else ""
    raise NoCompiler(f"no C++ compiler here{wanted}: {INSTALL} brings one, or install g++ or clang++")


def _identity(command: Sequence[str]) -> str:
    """The first line of --version; "" where the command does not work."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def _key(source: str, flags: tuple[str, ...], include: tuple[Path, ...], compiler: Compiler) -> str:
    """16 hexadecimal digits of everything that decides what the library does."""
    digest = hashlib.sha256()
    told = [source, *_included(source, include), *flags, *ALWAYS, *compiler.command, compiler.identity]
    if any("native" in flag for flag in flags):
        told.append(_processor())
    for part in told:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:16]


def _included(source: str, include: tuple[Path, ...]) -> list[str]:
    """The texts of the files that `source` includes by #include "...", and of those that they include, as far as
    they lie in the folders given; the system's own belong to the compiler."""
    seen: dict[Path, str] = {}
    waiting: list[tuple[str, Path | None]] = [(source, None)]
    while waiting:
        text, beside = waiting.pop()
        for wanted in re.findall(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', text, re.MULTILINE):
            for folder in ([beside] if beside else []) + list(include):
                path = Path(folder, wanted).resolve()
                if path.is_file():
                    if path not in seen:
                        seen[path] = path.read_text(encoding="utf-8")
                        waiting.append((seen[path], path.parent))
                    break
    return [f"{path.name}\0{seen[path]}" for path in sorted(seen)]


def _processor() -> str:
    """What -march=native depends on; a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return os.uname().machine if hasattr(os, "uname") else sys.platform
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _suffix() -> str:
    return {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


def _compile(
    source: str, name: str, flags: list[str], compiler: Compiler, path: Path, timeout_s: float
) -> tuple[Message, ...]:
    """Compile into `path`; returns the warnings."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
        text, made = Path(folder, Path(name).name), Path(folder, f"made{_suffix()}")
        if text.suffix not in (".cpp", ".cc", ".cxx"):
            text = text.with_name(f"{text.name}.cpp")
        text.write_text(source, encoding="utf-8")
        always = [*ALWAYS, *(ZIG if compiler.zig else ())]
        command = [*compiler.command, *always, *flags, text.name, "-o", str(made)]
        code, log = _run(command, folder, name, timeout_s)
        messages = _messages(log, text.name)
        if code or not made.exists():
            raise CompileError(_first(name, messages, log), messages, log)
        os.replace(made, path)
    return messages


def _run(command: list[str], folder: str, name: str, timeout_s: float) -> tuple[int, str]:
    """Exit status and words of the compiler. It runs in a session of its own, because what compiles is a child of
    what was called, and would go on after it."""
    env = {**os.environ, "LC_ALL": "C"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        _, log = process.communicate(timeout=timeout_s)
    except BaseException as error:
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CompileError(
                f"{name}: the compiler was stopped after {timeout_s:g} s without a result"
            ) from None
        raise
    return process.returncode, log


# kernel.cpp:3:7: error: 'yy' was not declared in this scope
_PLACED = re.compile(
    r"^(?P<file>[^:\n]+):(?P<line>\d+):(?:(?P<column>\d+):)? (?P<severity>fatal error|error|warning): (?P<text>.*)$"
)
# collect2: error: ld returned 1 exit status
_UNPLACED = re.compile(r"^\S+: (?P<severity>fatal error|error|warning): (?P<text>.*)$")


def _messages(log: str, own: str) -> tuple[Message, ...]:
    """The compiler's errors and warnings; a place in another file than the source is a part of the text."""
    found = []
    for line in log.splitlines():
        match = _PLACED.match(line) or _UNPLACED.match(line)
        if not match:
            continue
        severity = "warning" if match["severity"] == "warning" else "error"
        place = match.groupdict()
        if not place.get("line"):
            found.append(Message(None, None, severity, match["text"]))
        elif Path(place["file"]).name == own:
            column = int(place["column"]) if place["column"] else None
            found.append(Message(int(place["line"]), column, severity, match["text"]))
        else:
            where = f"{Path(place['file']).name}:{place['line']}"
            found.append(Message(None, None, severity, f"{where}: {match['text']}"))
    return tuple(found)


def _first(name: str, messages: tuple[Message, ...], log: str) -> str:
    errors = [message for message in messages if message.severity == "error"]
    if not errors:
        return f"{name} does not compile: {log.strip() or 'the compiler said nothing'}"
    first = errors[0]
    place = f"{name}:{first.line}:{first.column or 1}" if first.line else name
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{place} does not compile: {first.text}{more}"
