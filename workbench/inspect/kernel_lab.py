"""KernelLab: one kernel's source on the table. Compile it, read its machine code, run it on the emulator, time it.

Everything that can hang or crash runs in a process of its own: the compiler, nvdisasm, the emulated kernel, the
measurement. Nothing needs a GPU but the GPU's time; where there is none, recorded runs are shown and called so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..errors import Refused, near
from ..jobs import Job
from ..speed import Kernel, cuda, fuzz, kernels
from ..speed.apart import measure_apart
from ..speed.build import Build, build, parse
from ..speed.kernel import ARCHITECTURES, Draft, unreadable
from ..speed.ladder import ladder_table, ladders
from ..speed.occupancy import Occupancy, register_steps, shared_steps
from ..speed.recorded import Recorded, recorded_runs
from ..speed.roofline import COLUMNS as POINT_COLUMNS
from ..speed.roofline import Limits, data_sheet, limits_here, points, work
from ..speed.sass import Listing
from ..speed.table import read_shape
from . import kernel_code
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

# (timed, emulated) if no shape is asked for, by a piece of the op's formula. The small ones are more than one tile, and
# divided by none.
SHAPES = {
    "P(X": ((4096, 768, 8), (300, 72, 8)),
    "W[N,K]": ((1, 4096, 4096), (18, 40, 600)),
    "": ((1024, 1024, 1024), (140, 70, 330)),
}
FIGURES = ("mix", "occupancy", "roofline", "ladder")
SHEETS = ("NVIDIA H200", "NVIDIA A100-SXM4-80GB", "NVIDIA L4")  # for a roofline where no GPU was measured


class KernelLab(Viewable):
    """A kernel of the speed room, to read, edit and try: `KernelLab("fp32_tiled")`; or one of your own: the path of a
    .cu file, its source, or a `Kernel`. A source without a header is compiled and shown; to run it, a header has to say
    how it is launched, and the refusal has one to copy.

    arch: what it is compiled for, by default the GPU's here, else the newest that it is for. shape: M x N x K that is
    timed and for which the launch is computed; small: the one that is emulated. Set `source`, `arch` or `shape`, and
    ask again.
    """

    def __init__(
        self,
        kernel: str | Path | Kernel = "fp32_tiled",
        shape: str | Sequence[int] | None = None,
        arch: str | None = None,
        *,
        small: str | Sequence[int] | None = None,
    ):
        self.shipped: dict[str, Kernel | Draft] = dict(kernels())
        own = kernel_code.given(kernel)
        self._path = str(kernel) if own and not isinstance(kernel, Kernel) and own.source != kernel else None
        if own is not None:
            self.shipped[own.name] = own
        self._frames: dict[tuple, pd.DataFrame] = {}
        self._built: tuple[tuple, Build] | None = None
        self._asked_arch, self._asked_shape, self._asked_small = arch, shape, small
        self._own = own.name if own is not None else None
        self.choose(own.name if own is not None else str(kernel))

    # What is on the table

    def choose(self, name: str) -> KernelLab:
        """Another kernel, as shipped."""
        if name not in self.shipped:
            if name in (broken := unreadable()):
                raise broken[name]
            raise Refused(f"no CUDA kernel is called {name!r}{near(name, self.shipped)}")
        self.name, shipped = name, self.shipped[name]
        self.source = shipped.source
        self.arch = self._asked_arch or self._usual_arch(shipped)
        timed, small = next(shapes for part, shapes in SHAPES.items() if part in shipped.op)
        self.shape, self.small = (
            read_shape(self._asked_shape or timed),
            read_shape(self._asked_small or small),
        )
        return self

    def reset(self) -> KernelLab:
        """The shipped source again."""
        self.source = self.shipped[self.name].source
        return self

    def edit(self, *changes: tuple) -> KernelLab:
        """Replace lines of the shipped source: (first, last, *lines) each, from 1, both included. (36, 36) takes line
        36 out; (36, 35, "x") puts "x" before it."""
        lines = self.shipped[self.name].source.split("\n")
        for first, last, *new in sorted(changes, reverse=True):
            if not 1 <= first <= last + 1 <= len(lines) + 1:
                raise Refused(f"lines {first} to {last} are not in {self.name}, which has {len(lines)}")
            lines[first - 1 : last] = new
        self.source = "\n".join(lines)
        return self

    @property
    def edited(self) -> bool:
        return self.source != self.shipped[self.name].source

    @property
    def kernel(self) -> Kernel:
        """The source as a kernel. Refused (file and line) where its header is malformed."""
        return parse(self.name, self.source)

    @property
    def arch(self) -> str:
        """What it is compiled for: "sm_90a". Refused: a name that is none."""
        return self._arch

    @arch.setter
    def arch(self, arch: str) -> None:
        if not re.fullmatch(r"sm_\d+[af]?", arch):
            raise Refused(f"architecture {arch!r} is not of the form sm_80{near(arch, ARCHITECTURES)}")
        self._arch = arch

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those that the shipped kernel is meant for, and the one that is set."""
        return tuple(dict.fromkeys([*self.shipped[self.name].architectures, self.arch]))

    @property
    def ladder(self) -> str:
        return self.shipped[self.name].ladder

    def _usual_arch(self, kernel: Kernel | Draft) -> str:
        if self.device is not None:
            return f"{self.device.arch}a" if kernel.runs_on(f"{self.device.arch}a") else self.device.arch
        return (kernel.architectures or (kernel.architecture,))[-1]

    @cached_property
    def device(self) -> cuda.Device | None:
        """The GPU of this machine."""
        return cuda.find_device()[0]

    # Compiling

    def build(self) -> Build:
        """Compile, disassemble, compute the occupancy. What is wrong is an answer with the line, not an exception."""
        asked = self.name, self.source, self.arch, self.shape
        if self._built is None or self._built[0] != asked:
            self._built = asked, build(*asked)
        return self._built[1]

    def steps(self) -> tuple[list, list]:
        """The steps of registers per thread and of shared bytes per block at which a block is lost, as computed."""
        found = self._resident()
        return (
            register_steps(self.arch, shared_bytes=found.shared_bytes, threads=found.threads),
            shared_steps(self.arch, registers=found.registers, threads=found.threads),
        )

    def _resident(self) -> Occupancy:
        built = self.build()
        if built.occupancy is None:
            raise Refused(built.error or built.note)
        return built.occupancy

    @property
    def table(self) -> pd.DataFrame:
        """A row for each source line that became instructions: line, source, instructions of each kind, live
        registers."""
        made = self._listing()
        lines, live = self.source.split("\n"), made.live()
        rows = [
            {
                "line": line,
                "source": lines[line - 1].strip(),
                "instructions": kinds.total(),
                **kinds,
                "live": live[line],
            }
            for line, kinds in made.by_line().items()
        ]
        frame = pd.DataFrame(rows)
        counts = [name for name in frame.columns if name not in ("line", "source", "live")]
        frame[counts] = frame[counts].fillna(0).astype(int)
        return frame.reindex(columns=["line", "source", *counts, "live"])

    def _listing(self) -> Listing:
        built = self.build()
        if built.listing is None:
            raise Refused(built.error or built.note)
        return built.listing

    # Running on the emulator

    def fuzz(self, job: Job | None = None, seed: int = 0) -> pd.DataFrame:
        """The source on the CPU in five schedules and looked through for races, at the small shape; columns as in
        `speed.fuzz.SCHEDULE_COLUMNS`. CompileError and Refused as in `emulator.run`."""
        frame = pd.DataFrame()
        for frame in self.fuzzing(seed):
            if job is not None and len(frame) < len(fuzz.CHECKS):
                job.step(len(frame), len(fuzz.CHECKS), f"next: {fuzz.CHECKS[len(frame)]}")
        return frame

    def fuzzing(self, seed: int = 0) -> Iterator[pd.DataFrame]:
        """The same table as it grows, a row more for each check that has ended."""
        return fuzz.schedules(self.kernel, self.small, seed)

    def mutants(self, job: Job | None = None, seed: int = 0) -> pd.DataFrame:
        """Each synchronisation left out once: is it seen, and which threads race then? Columns as in
        `speed.fuzz.MUTANT_COLUMNS`."""
        return fuzz.mutants(self.kernel, self.small, seed, step=None if job is None else job.step)

    # Timing

    def measure(
        self, what: str = "kernel", job: Job | None = None, *, rounds: int = 5, budget_s: float = 10.0
    ) -> pd.DataFrame:
        """Time, in a process of its own, this source ("kernel"), its ladder as shipped ("ladder"), or whatever else
        does the same product by a pattern of names ("cpu-*"). Where there is no GPU, CUDA kernels are compiled and
        have no time."""
        wanted: str | Kernel = what
        if what == "kernel":
            wanted = self.kernel
        elif what == "ladder":
            wanted = ",".join(ladders().get(self.ladder, ()))
            if not wanted:
                raise Refused(f"{self.name} stands on no ladder that is shipped; measure the kernel itself")
        step, shape = None if job is None else job.step, self.shape

        def keep(frame: pd.DataFrame) -> None:
            self._frames.pop((shape, what), None)
            self._frames[shape, what] = frame

        # kept as it grows: what is known outlives a cancel, and a kernel that hangs
        frame = measure_apart(shape, wanted, rounds, budget_s=budget_s, progress=step, found=keep)
        keep(frame)
        return frame

    @property
    def measured(self) -> pd.DataFrame | None:
        """What was timed here at this shape, one row a kernel, the newest first; None before."""
        frames = [frame for (shape, _), frame in reversed(self._frames.items()) if shape == self.shape]
        return pd.concat(frames).drop_duplicates(subset=["kernel"]) if frames else None

    @cached_property
    def records(self) -> list[Recorded]:
        """Runs that were recorded elsewhere or earlier, newest first."""
        return recorded_runs()

    def timings(self, ladder: str | None = None) -> tuple[pd.DataFrame | None, str]:
        """(table, where it comes from): what was measured here and has times of a ladder (this kernel's), else the
        newest record that has, else what was measured of others, or nothing."""
        rungs, here = set(ladders().get(ladder or self.ladder, ())), self.measured
        if here is not None and _times_of(here, rungs):
            return here, "measured here"
        for one in self.records:
            if _times_of(one.frame, rungs):
                return one.frame, one.label
        return here, "predictions alone: no rung was timed here, and no recorded run has them"

    # Roofline

    @cached_property
    def limits(self) -> Limits:
        """Of this machine, measured now: of its GPU, else of its CPU."""
        return limits_here()

    def machines(self) -> dict[str, str]:
        """What a roofline can be drawn of: key -> how it is called."""
        here = self.device.name if self.device is not None else "this CPU"
        made = {"here": f"{here} (measured)"}
        made |= {f"record {i}": one.label for i, one in enumerate(self.records) if one.limits is not None}
        return made | {name: f"{name} (data sheet)" for name in SHEETS}

    def roofline(self, machine: str = "here") -> tuple[pd.DataFrame, Limits, pd.DataFrame | None]:
        """(points, limits, ceilings): what was timed on that machine, and for this ladder's kernels that were not,
        what its roofs would allow: a model, and only for a GPU."""
        known = self.machines()
        if machine not in known:
            raise Refused(f"no machine is called {machine!r}{near(machine, known)}")
        if machine in SHEETS:
            limits = data_sheet(machine)
            assert limits is not None
            return pd.DataFrame(columns=list(POINT_COLUMNS)), limits, self._ceilings(limits)
        if machine == "here":
            frame = self.measured
            if frame is None:
                frame = self.measure("kernel" if self.device is not None else "cpu-*")
            return points(_of(frame, gpu=self.device is not None), self.limits), self.limits, None
        record = self.records[int(machine.split()[1])]
        assert record.limits is not None
        frame = _of(record.frame, gpu=bool(record.document["machine"].get("device")))
        return points(frame, record.limits, where="recorded"), record.limits, None

    def _ceilings(self, limits: Limits) -> pd.DataFrame:
        rows = []
        for name in ladders().get(self.ladder, (self.name,)):
            kernel = self.shipped.get(name)
            if not isinstance(
                kernel, Kernel
            ):  # a file that came later than this object, or one without a header
                continue
            done = work(kernel, self.shape)
            reach = limits.attainable(done.intensity, kernel.bits)
            rows.append({"kernel": name, "intensity": done.intensity, "attainable": reach})
        # a ladder does the same work in every rung: one mark is all of them
        frame = (
            pd.DataFrame(rows, columns=["kernel", "intensity", "attainable"])
            .groupby(["intensity", "attainable"], as_index=False, sort=False)
            .agg(list)
        )
        frame["kernel"] = [
            f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0] for names in frame["kernel"]
        ]
        return frame

    # Looking

    def figure(
        self, theme: str = "light", *, kind: str = "mix", machine: str = "here", ladder: str | None = None
    ) -> go.Figure:
        """One of FIGURES: instructions by line, occupancy, roofline of a machine, a ladder (this kernel's)."""
        from ..figures import speed as draw

        if kind not in FIGURES:
            raise Refused(f"{kind!r} is no figure of a kernel{near(kind, FIGURES)}")
        if kind == "mix":
            return draw.mix_figure(self._listing().by_line(), self.source.split("\n"), self.name, theme=theme)
        if kind == "occupancy":
            return self._occupancy_figure(theme)
        if kind == "roofline":
            found, limits, ceilings = self.roofline(machine)
            roofs = [vars(roof) for roof in limits.roofs]
            where = " ".join(filter(None, [limits.where, limits.date[:10]]))
            return draw.roofline_figure(
                found,
                roofs,
                device=limits.device,
                where=where,
                note=limits.note,
                ceilings=ceilings,
                theme=theme,
            )
        if not (ladder or self.ladder):
            raise Refused(f"{self.name} stands on no ladder: it has no header that names one")
        frame, where = self.timings(ladder)
        table = ladder_table(
            frame if frame is not None else pd.DataFrame(columns=["kernel"]), ladder or self.ladder
        )
        return draw.ladder_figure(table, ladder or self.ladder, note=where, theme=theme)

    def _occupancy_figure(self, theme: str) -> go.Figure:
        from ..figures import speed as draw

        found, (registers, shared) = self._resident(), self.steps()
        one = found.multiprocessor
        return draw.occupancy_figure(
            [(step.most, step.warps) for step in registers],
            [(step.most, step.warps) for step in shared],
            at=(found.registers, found.shared_bytes, found.warps),
            most=one.warps,
            name=self.name,
            device=f"{one.arch} ({one.example})",
            theme=theme,
        )

    def code(self) -> str:
        """The Python that makes this object again, edits included."""
        own = self.shipped[self.name].source if self.name == self._own else None
        return kernel_code.code(self, self._path if own is not None else None, own)


def _of(frame: pd.DataFrame, *, gpu: bool) -> pd.DataFrame:
    """The rows of one of the two machines: a CPU's kernels do not stand under a GPU's roofs."""
    return frame.loc[frame["kernel"].str.startswith("cpu-") != gpu]


def _times_of(frame: pd.DataFrame, rungs: set[str]) -> bool:
    return bool((frame["kernel"].isin(list(rungs)) & frame["seconds"].notna()).any())
