"""How many blocks of a kernel fit a multiprocessor, what limits them, and where the next step would be.

A multiprocessor hides the time that a load takes by running other warps meanwhile; how many it can hold follows from
registers, shared memory and threads of a block. This is arithmetic over published limits, not a measurement: it says
what fits, not how fast it is. Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability";
how resources are rounded: NVIDIA's occupancy calculator (cuda_occupancy.h). Shared memory is taken to be carved out
as large as the architecture allows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import Refused

WARP = 32  # threads
ALLOCATION_WARPS = 4  # a multiprocessor has four schedulers; registers go to warps in groups of as many
ALLOCATION_REGISTERS = 256  # per warp
ALLOCATION_SHARED = 128  # bytes


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor of an architecture holds."""

    arch: str
    example: str  # a product that has it
    warps: int
    blocks: int
    shared_bytes: int  # of all resident blocks
    shared_per_block: int  # that one block may ask for
    reserved: int  # bytes that the system takes of the shared memory for each block
    registers: int = 65536
    registers_per_thread: int = 255
    threads_per_block: int = 1024


MULTIPROCESSORS = {
    one.arch: one
    for one in (
        Multiprocessor("sm_75", "T4", 32, 16, 64 << 10, 64 << 10, 0),
        Multiprocessor("sm_80", "A100", 64, 32, 164 << 10, 163 << 10, 1024),
        Multiprocessor("sm_86", "A10, RTX 30", 48, 16, 100 << 10, 99 << 10, 1024),
        Multiprocessor("sm_87", "Orin", 48, 16, 164 << 10, 163 << 10, 1024),
        Multiprocessor("sm_89", "L4, RTX 40", 48, 24, 100 << 10, 99 << 10, 1024),
        Multiprocessor("sm_90", "H100, H200", 64, 32, 228 << 10, 227 << 10, 1024),
        Multiprocessor("sm_100", "B200", 64, 32, 228 << 10, 227 << 10, 1024),
        Multiprocessor("sm_103", "B300", 64, 32, 228 << 10, 227 << 10, 1024),
        Multiprocessor("sm_120", "RTX 50", 48, 24, 100 << 10, 99 << 10, 1024),
        Multiprocessor("sm_121", "GB10", 48, 24, 100 << 10, 99 << 10, 1024),
    )
}


@dataclass(frozen=True)
class Occupancy:
    """Blocks and warps that a multiprocessor holds at a time. `limits`: what each resource alone would allow, in
    blocks; `limited_by`: those that allow the fewest."""

    multiprocessor: Multiprocessor
    registers: int
    shared_bytes: int
    threads: int
    blocks: int
    limits: dict[str, int]

    @property
    def warps(self) -> int:
        return self.blocks * warps_of(self.threads)

    @property
    def share(self) -> float:
        """Warps against the most that the multiprocessor can hold."""
        return self.warps / self.multiprocessor.warps

    @property
    def limited_by(self) -> tuple[str, ...]:
        return tuple(name for name, blocks in self.limits.items() if blocks == self.blocks)


def multiprocessor(arch: str) -> Multiprocessor:
    """The limits of an architecture; "sm_90a" has those of "sm_90". Refused where they are not in the table."""
    plain = re.sub(r"[af]$", "", arch)
    if plain not in MULTIPROCESSORS:
        known = ", ".join(f"{name} ({one.example})" for name, one in MULTIPROCESSORS.items())
        raise Refused(f"the limits of a multiprocessor of {arch} are not in the table; it has {known}")
    return MULTIPROCESSORS[plain]


def warps_of(threads: int) -> int:
    return -(-threads // WARP)


def occupancy(arch: str, *, registers: int, shared_bytes: int, threads: int) -> Occupancy:
    """`registers` per thread; `shared_bytes` (static and dynamic) and `threads` per block. Refused where one block
    asks for more than there is."""
    one = multiprocessor(arch)
    if not 1 <= threads <= one.threads_per_block:
        raise Refused(f"a block of {threads} threads; {arch} takes 1 to {one.threads_per_block}")
    if not 0 <= shared_bytes <= one.shared_per_block:
        raise Refused(
            f"a block takes {shared_bytes} bytes of shared memory; {arch} ({one.example}) has {one.shared_per_block}"
        )
    if registers > one.registers_per_thread:
        raise Refused(f"{registers} registers per thread; {arch} gives a thread {one.registers_per_thread}")
    limits = {
        "registers": _by_registers(one, registers, threads),
        "shared memory": _by_shared(one, shared_bytes),
        "threads": one.warps // warps_of(threads),
        "blocks": one.blocks,
    }
    return Occupancy(one, registers, shared_bytes, threads, min(limits.values()), limits)


def _by_registers(one: Multiprocessor, registers: int, threads: int) -> int:
    per_warp = _up(max(1, registers) * WARP, ALLOCATION_REGISTERS)
    warps = one.registers // per_warp // ALLOCATION_WARPS * ALLOCATION_WARPS
    return warps // warps_of(threads)


def _by_shared(one: Multiprocessor, shared_bytes: int) -> int:
    each = _up(shared_bytes + one.reserved, ALLOCATION_SHARED)
    return one.shared_bytes // max(each, ALLOCATION_SHARED)  # a block without any does not limit


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Step:
    """Up to `most` of a resource the multiprocessor holds `blocks` blocks, `warps` warps."""

    most: int
    blocks: int
    warps: int


def register_steps(arch: str, *, shared_bytes: int, threads: int) -> list[Step]:
    """The steps at which one more register per thread costs a block, the fewest registers first. With more than the
    last step's a block does not start at all."""
    one = multiprocessor(arch)
    values = range(1, one.registers_per_thread + 1)
    return _steps(
        values,
        lambda n: occupancy(arch, registers=n, shared_bytes=shared_bytes, threads=threads).blocks,
        threads,
    )


def shared_steps(arch: str, *, registers: int, threads: int) -> list[Step]:
    """The steps at which more shared memory (bytes per block) costs a block."""
    one = multiprocessor(arch)
    edges = {one.shared_per_block}
    for blocks in range(1, one.blocks + 1):
        room = one.shared_bytes // blocks // ALLOCATION_SHARED * ALLOCATION_SHARED - one.reserved
        edges.add(min(max(room, 0), one.shared_per_block))
    return _steps(
        sorted(edges),
        lambda n: occupancy(arch, registers=registers, shared_bytes=n, threads=threads).blocks,
        threads,
    )


def _steps(values, blocks_at, threads: int) -> list[Step]:
    """The last value of each run of values with the same number of blocks; runs without any block are left out."""
    steps: list[Step] = []
    for value in values:
        blocks = blocks_at(value)
        if steps and steps[-1].blocks == blocks:
            steps.pop()
        if blocks:
            steps.append(Step(value, blocks, blocks * warps_of(threads)))
    return steps
