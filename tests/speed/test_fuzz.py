"""The emulator's answers as tables, and what is no answer: mutants of a kernel that is wrong without them."""

from __future__ import annotations

import pytest

from workbench.errors import Refused
from workbench.speed import Kernel, emulator, fuzz, kernels

pytestmark = pytest.mark.usefixtures("cpp")

SHAPE = (33, 65, 70)


def edited(old: str, new: str) -> Kernel:
    source = kernels()["fp32_tiled"].source
    assert old in source
    return Kernel.parse(source.replace(old, new, 1))


def test_every_synchronisation_of_a_right_kernel_is_a_row():
    steps: list[str] = []
    frame = fuzz.mutants(kernels()["fp32_tiled"], SHAPE, step=lambda done, total, what: steps.append(what))
    assert list(frame["line"]) == [one.line for one in emulator.mutants(kernels()["fp32_tiled"])]
    assert frame["caught"].tolist() == [True, True]
    assert list(frame.columns) == list(fuzz.MUTANT_COLUMNS)
    assert steps[:6] == [f"the whole kernel, {one}" for one in fuzz.CHECKS]
    # the first schedule sees it, and then it is looked for the two threads
    line = frame["line"][0]
    assert steps[6:8] == [f"without line {line}, forward", f"without line {line}, races"]
    assert frame["by"][0] == "forward"
    assert frame["message"][0].startswith("race: block (0, 0, 0), thread (1, 0, 0): writes a_tile[0][1]")


def test_mutants_of_a_wrong_kernel_are_refused():
    with pytest.raises(Refused, match=r"^fp32_tiled fails as it stands: forward: wrong: relative error"):
        fuzz.mutants(edited("sum += ", "sum -= "), SHAPE)


def test_mutants_of_a_kernel_that_only_one_schedule_breaks_are_refused():
    barrier = emulator.mutants(kernels()["fp32_tiled"])[0].text
    with pytest.raises(Refused, match="fails as it stands: "):
        fuzz.mutants(edited(barrier, ";"), SHAPE)


def test_mutants_of_a_kernel_that_hangs_are_refused_after_one_time_limit(monkeypatch):
    monkeypatch.setattr(fuzz, "LIMIT_S", 0.2)
    launches: list[str] = []
    with pytest.raises(Refused, match="fails as it stands: forward: time limit"):
        fuzz.mutants(
            edited("const int row", "volatile int hang = 1; while (hang) {} const int row"),
            SHAPE,
            step=lambda done, total, what: launches.append(what),
        )
    assert launches == ["the whole kernel, forward"]
