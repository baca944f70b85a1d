"""Every notebook runs from the top, is committed without outputs, and is thin: cells of at most five lines."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("[!.]*.ipynb"))
NOTEBOOKS = [path for path in NOTEBOOKS if ".ipynb_checkpoints" not in path.parts]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def committed(path: Path) -> str:
    """The notebook as git's index has it: `make lab` leaves outputs in the working copy, and that is no fault."""
    name = path.relative_to(ROOT).as_posix()
    shown = subprocess.run(
        ["git", "show", f":{name}"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    return shown.stdout if shown.returncode == 0 else path.read_text(encoding="utf-8")


def leftovers(text: str) -> list[str]:
    """What a committed notebook must not contain."""
    notebook = nbformat.reads(text, as_version=4)
    found = ["metadata.widgets"] if "widgets" in notebook.metadata else []
    for number, cell in enumerate(notebook.cells):
        if cell.get("outputs"):
            found.append(f"outputs in cell {number}")
        if cell.get("execution_count") is not None:
            found.append(f"execution count in cell {number}")
    return found


def thick_cells(notebook) -> list[str]:
    """Code cells with more than five lines of code, or that define what the library should own."""
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        lines = [
            line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")
        ]
        if len(lines) > 5:
            found.append(f"cell {number} has {len(lines)} lines")
        # Lines for the shell and IPython's magics are not Python.
        source = "\n".join("" if line.lstrip()[:1] in "%!?" else line for line in cell.source.splitlines())
        if any(
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            for node in ast.walk(ast.parse(source))
        ):
            found.append(f"cell {number} defines a function or class")
    return found


def test_there_are_notebooks():
    assert NOTEBOOKS, "no notebook in notebooks/"


@each_notebook
def test_a_committed_notebook_is_small_and_without_outputs(path):
    text = committed(path)
    assert leftovers(text) == []
    assert len(text.encode()) < 100_000


@each_notebook
def test_the_cells_are_thin(path):
    assert thick_cells(nbformat.read(path, as_version=4)) == []


@pytest.mark.slow
@each_notebook
def test_the_notebook_runs_from_the_top(path, tmp_path):
    # A copy of the folder: what a notebook writes beside itself does not land in the checkout.
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    copy = folder / path.relative_to(ROOT / "notebooks")
    notebook = nbformat.read(copy, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        startup_timeout=240,
        kernel_name="python3",
        store_widget_state=False,  # one figure's widget state is five megabytes
        resources={"metadata": {"path": str(copy.parent)}},
    )
    client.execute()  # raises at the first error, with the cell
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []


def test_leftovers_and_thick_cells_are_found():
    cell = nbformat.v4.new_code_cell("# why\n\na = 1\nb = 2\n%time c = 3\nd = 4\ne = 5", execution_count=1)
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})
    cell.outputs = [nbformat.v4.new_output("stream", text="x")]
    assert leftovers(nbformat.writes(notebook)) == [
        "metadata.widgets",
        "outputs in cell 0",
        "execution count in cell 0",
    ]
    assert thick_cells(notebook) == []
    cell.source += "\ndef f(): pass"
    assert thick_cells(notebook) == ["cell 0 has 6 lines", "cell 0 defines a function or class"]
