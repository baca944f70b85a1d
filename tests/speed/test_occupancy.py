"""Occupancy: golden values of NVIDIA's calculator, and steps that agree with it everywhere."""

from __future__ import annotations

import pytest

from workbench.errors import Refused
from workbench.speed.occupancy import multiprocessor, occupancy, register_steps, shared_steps


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "blocks", "limited"),
    [
        # CUDA C++ Best Practices Guide, "Calculating Occupancy", says the rule by example: 37 registers and blocks of
        # 128 threads on compute capability 7.0 (64 K registers, granularity 256 per warp) are 12 blocks, 75 %; the
        # register rule of 8.0 and 9.0 is the same
        ("sm_80", 37, 0, 128, 12, ("registers",)),
        ("sm_90", 32, 0, 1024, 2, ("registers", "threads")),
        ("sm_90", 33, 0, 1024, 1, ("registers",)),  # one register more than fits twice
        ("sm_90a", 168, 197 << 10, 384, 1, ("registers", "shared memory")),
        ("sm_80", 16, 48 << 10, 128, 3, ("shared memory",)),  # 1 KiB more is reserved; 3 x 49 of 164
        ("sm_89", 16, 0, 64, 24, ("threads", "blocks")),  # 24 blocks of two warps are all 48 warps
        ("sm_75", 16, 0, 32, 16, ("blocks",)),
    ],
)
def test_golden_values(arch, registers, shared, threads, blocks, limited):
    found = occupancy(arch, registers=registers, shared_bytes=shared, threads=threads)
    assert found.blocks == blocks
    assert found.limited_by == limited


def test_share_counts_warps_not_threads():
    found = occupancy("sm_80", registers=37, shared_bytes=0, threads=128)
    assert (found.warps, found.share) == (48, 0.75)
    assert (
        occupancy("sm_80", registers=16, shared_bytes=0, threads=33).warps % 2 == 0
    )  # 33 threads are two warps


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_89", "sm_90a"])
@pytest.mark.parametrize("threads", [32, 96, 384, 1024])
def test_a_step_is_the_last_value_before_a_block_is_lost(arch, threads):
    def blocks(n):
        return occupancy(arch, registers=n, shared_bytes=1000, threads=threads).blocks

    steps = register_steps(arch, shared_bytes=1000, threads=threads)
    assert [step.blocks for step in steps] == sorted({step.blocks for step in steps}, reverse=True)
    for step in steps:
        assert blocks(step.most) == step.blocks
        if step.most < 255:
            assert blocks(step.most + 1) < step.blocks
    most = multiprocessor(arch).shared_per_block
    for step in shared_steps(arch, registers=40, threads=threads):
        held = occupancy(arch, registers=40, shared_bytes=step.most, threads=threads).blocks
        assert held == step.blocks
        if step.most < most:
            assert occupancy(arch, registers=40, shared_bytes=step.most + 1, threads=threads).blocks < held


def test_what_a_block_cannot_have_is_refused_with_what_there_is():
    with pytest.raises(Refused, match=r"sm_89 \(L4, RTX 40\) has 101376"):
        occupancy("sm_89", registers=32, shared_bytes=200_000, threads=128)
    with pytest.raises(Refused, match="1 to 1024"):
        occupancy("sm_89", registers=32, shared_bytes=0, threads=2000)
    with pytest.raises(Refused, match="256 registers"):
        occupancy("sm_89", registers=256, shared_bytes=0, threads=32)
    with pytest.raises(Refused, match=r"sm_61.*sm_90 \(H100, H200\)"):
        multiprocessor("sm_61")
