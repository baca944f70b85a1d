"""What every verb does alike: its report as tables or JSON, its errors in one line, its progress.

Whatever a library prints while a verb works goes to stderr, so that stdout is the report alone.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec

import typer

from ..errors import Refused

if TYPE_CHECKING:
    from ..jobs import Job

P = ParamSpec("P")
PROSE = {"note", "help", "summary", "source", "what", "scores", "status", "bounds"}  # columns of sentences
Tell = Callable[..., None]  # tell(done, total, what)


@dataclass
class Table:
    """Rows to be read by people: `columns` in order; `caption` holds units and references."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    caption: str = ""


@dataclass
class Report:
    """What a verb found: the document of `--json`, the tables of everybody else, lines on stderr for both.

    A person at a terminal reads such a line at once; elsewhere it waits for the end, because of a verb that fails
    stderr holds the one line that says why.
    """

    document: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        if sys.stderr.isatty():
            print(line, file=sys.stderr)
        else:
            self.lines.append(line)

    def publish(self, as_json: bool) -> None:
        for line in self.lines:
            print(line, file=sys.stderr)
        if as_json:
            print(json.dumps(plain(self.document), indent=1, allow_nan=False))
        else:
            _print_tables(self.tables)
        sys.stdout.flush()


def plain(value: Any) -> Any:
    """The value in the types of JSON: what is not known or not finite is None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "item"):  # numpy, torch
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int) else str(value)


def verb(work: Callable[P, Report]) -> Callable[P, None]:
    """`work` as a command: its report is published, its errors are one line and a status."""

    @functools.wraps(work)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            # Whatever a library prints on the way is no part of the document.
            with contextlib.redirect_stdout(sys.stderr):
                report = work(*arguments, **options)
            report.publish(bool(options.get("as_json")))
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            _end("interrupted", 130)
        except BrokenPipeError:
            _drop_stdout()
            raise typer.Exit(1) from None
        except Exception as error:
            if os.environ.get("WORKBENCH_TRACEBACK"):
                raise
            _drop_stdout()
            _end(sentence(error), 1)

    return run


def sentence(error: Exception) -> str:
    """What went wrong and the way out, in one line."""
    words = " ".join(str(error).split())
    if isinstance(error, Refused):
        return words
    if isinstance(error, MemoryError) or "can't allocate memory" in words:
        return f"not enough memory ({words[:200]}): choose fewer layers or fewer tokens"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {words[:300]}; run with WORKBENCH_TRACEBACK=1 to see where"


def _end(words: str, status: int) -> NoReturn:
    print(f"workbench: {words}", file=sys.stderr)
    raise typer.Exit(status)


def _drop_stdout() -> None:
    """What is left in the buffer of a stdout that is full or gone must not fail once more at the exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_tables(tables: Sequence[Table]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    terminal = console.width if console.is_terminal else 10_000  # a file or a pipe has no width to fold at
    for table in tables:
        made = RichTable(box=box.SIMPLE_HEAD)
        needed = 2
        for name in table.columns:
            # A number that folds is misread: sentences fold, headings do at their underscores, the rest never.
            cells = [cell(row.get(name)) for row in table.rows]
            heading = name.replace("_", "\n") if console.is_terminal else name
            widest = max(map(len, [*heading.split("\n"), *cells]))
            made.add_column(
                heading,
                justify="left"
                if any(isinstance(row.get(name), str | list) for row in table.rows)
                else "right",
                overflow="fold",
                no_wrap=name not in PROSE,
            )
            needed += 3 + (min(widest, 24) if name in PROSE else widest)
        for row in table.rows:
            made.add_row(*(Text(cell(row.get(name))) for name in table.columns))
        console.width = max(terminal, needed)
        console.print(table.title, style="bold")
        console.print(made)
        console.width = terminal
        if table.caption:
            console.print(table.caption, style="dim")


def cell(value: Any) -> str:
    value = plain(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(cell, value)) if isinstance(value, list) else value or ""


@contextlib.contextmanager
def progress(title: str) -> Iterator[Tell]:
    """A progress bar on stderr, where that is a terminal; gone at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, what="": None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what="": bar.update(
            task, completed=done, total=total or None, description=f"{title} {what}".strip()
        )


def run_job(title: str, work: Callable[[Job], Any]) -> Any:
    """Do the work of a job here and now, under a progress bar."""
    from ..jobs import Job

    with progress(title) as tell:
        job = Job(work, title)
        job.listen(lambda job: tell(job.done, job.total, job.text))
        return job.run()
