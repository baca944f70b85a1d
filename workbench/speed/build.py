"""All that compiling one source for one architecture says: messages, machine code, resources, what fits the machine.

What is wrong with the source is an answer with its line, not an exception: an editor shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Refused
from .kernel import Kernel
from .manifest import example, function_of, has_header
from .nvrtc import Compiled, CompileError, Message, NoCompiler, Resources, compile_kernel
from .occupancy import Occupancy, occupancy
from .ops import Shape
from .sass import OPTIONS, Listing, NoDisassembler, listing

NO_HEADER = "compiled and shown; no header says how it is launched: to run it"


@dataclass(frozen=True)
class Build:
    """What compiling one source for one architecture has said. `error`: one line, "" where it compiled; `note`: what
    could not be looked at, and why."""

    source: str
    arch: str
    messages: tuple[Message, ...] = ()
    error: str = ""
    kernel: Kernel | None = None
    compiled: Compiled | None = None
    listing: Listing | None = None
    occupancy: Occupancy | None = None
    note: str = ""
    function: str = ""  # its symbol in the machine code

    @property
    def missing(self) -> tuple[str, ...]:
        """Instructions that its header requires and the machine code does not have."""
        return self.listing.missing(self.kernel.requires) if self.listing and self.kernel else ()

    @property
    def own(self) -> Resources | None:
        """What the compiler says of the function."""
        return None if self.compiled is None else self.compiled.functions.get(self.function)

    @property
    def resources(self) -> dict[str, int]:
        """registers per thread, its budget, static and dynamic shared bytes per block, spilled bytes, stack bytes; of a
        source without a header the registers, the static shared bytes, the spills and the stack."""
        if (own := self.own) is None:
            return {}
        spilled = {"spill_bytes": own.spill_stores + own.spill_loads, "stack_bytes": own.stack_bytes}
        if self.kernel is None:
            return {"registers": own.registers, "shared_bytes": own.shared_bytes, **spilled}
        if self.occupancy is None:
            return {}
        return {
            "registers": own.registers,
            "budget": self.kernel.registers,
            "shared_bytes": self.occupancy.shared_bytes,
            "threads": self.occupancy.threads,
            **spilled,
        }


def parse(name: str, source: str) -> Kernel:
    """A source as the kernel `name`. Refused (file and line) where its header is malformed or names another."""
    kernel = Kernel.parse(source, where=f"{name}.cu")
    if kernel.name != name:
        raise Refused(f"{name}.cu:1: the header says name {kernel.name!r}, this is {name!r}")
    return kernel


def build(name: str, source: str, arch: str, shape: Shape) -> Build:
    """Compile, disassemble, compute the occupancy of a launch at `shape`. Without NVRTC or nvdisasm the note says
    how to get it."""
    if not has_header(source):
        return _draft(name, source, arch)
    try:
        kernel = parse(name, source)
        if not kernel.runs_on(arch):
            works = " or ".join(kernel.architectures) or kernel.architecture
            raise Refused(f"{name} needs {kernel.architecture} and does not run on {arch}; {works} works")
    except Refused as error:
        return Build(source, arch, messages=(_placed(str(error), name),), error=str(error))
    compiled = _compiled(name, source, arch)
    if isinstance(compiled, Build):
        return compiled
    made, resident, notes = None, None, []
    try:
        made = listing(compiled, name)
    except NoDisassembler as error:
        notes.append(str(error))
    try:
        resident = _occupancy(kernel, compiled, arch, shape)
    except (
        Refused
    ) as error:  # a block that this architecture cannot hold, or one that the table does not know
        notes.append(str(error))
    known = (source, arch, compiled.messages, "", kernel, compiled, made, resident, "; ".join(notes))
    return Build(*known, function=name)


def _compiled(name: str, source: str, arch: str) -> Compiled | Build:
    """What the compiler made of it, or the build that says why it made nothing."""
    try:
        return compile_kernel(source, arch, OPTIONS, name=f"{name}.cu")
    except CompileError as error:
        return Build(source, arch, messages=error.messages, error=str(error))
    except NoCompiler as error:
        return Build(source, arch, note=str(error))
    except Refused as error:
        return Build(source, arch, messages=(_placed(str(error), name),), error=str(error))


def _draft(name: str, source: str, arch: str) -> Build:
    """A source without a header: compiled and disassembled. The launch, and with it the occupancy, is not known."""
    compiled = _compiled(name, source, arch)
    if isinstance(compiled, Build):
        return compiled
    wanted = function_of(source) or name
    # a function that is not extern "C" is called _Z, the length of its name, its name, and what it takes
    known = [one for one in compiled.functions if one == wanted or one.startswith(f"_Z{len(wanted)}{wanted}")]
    if not known:
        said = (
            f"{name}.cu: the machine code has no function {wanted} (a template is compiled where it is used)"
        )
        return Build(source, arch, messages=(Message(None, None, "error", said),), error=said)
    note = f"{NO_HEADER}, put lines such as these on top:\n{example(source)}"
    try:
        made = listing(compiled, known[0], source=f"{name}.cu")
    except NoDisassembler as error:
        made, note = None, f"{error}; {note}"
    return Build(
        source, arch, compiled.messages, compiled=compiled, listing=made, note=note, function=known[0]
    )


def _occupancy(kernel: Kernel, compiled: Compiled, arch: str, shape: Shape) -> Occupancy:
    own, (_, block, dynamic) = compiled.functions[kernel.name], kernel.launch(*shape)
    threads = block[0] * block[1] * block[2]
    return occupancy(arch, registers=own.registers, shared_bytes=own.shared_bytes + dynamic, threads=threads)


def _placed(error: str, name: str) -> Message:
    """ "fp32_tiled.cu:3: what" as a message on line 3."""
    place, _, text = error.partition(": ")
    line = place.removeprefix(f"{name}.cu:")
    return Message(int(line), None, "error", text) if line.isdigit() else Message(None, None, "error", error)
