"""`workbench lab`: JupyterLab on one notebook, with the small extension that runs it at its first opening.

JupyterLab runs in this process, so its exit status and Ctrl-C are those of the command. Nothing here imports the
library: the server is up as fast as JupyterLab alone.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ..errors import Refused, near

START = "00_start.ipynb"
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"  # beside a checkout; a wheel carries none
LABEXTENSIONS = Path(__file__).resolve().parent / "labextension"


def find_notebook(name: str | None = None) -> Path:
    """The notebook to open: a path, or the name of one of the checkout's with or without `.ipynb`."""
    if name is not None and Path(name).is_file():
        return Path(name).resolve()
    if not NOTEBOOKS.is_dir():
        missing = (
            f"no notebook at {name}"
            if name
            else "the notebooks are in the repository, not in this installed package"
        )
        raise Refused(f"{missing}; give the path of one: workbench lab FILE.ipynb, or run it in a clone")
    known = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    wanted = name or START
    for candidate in (wanted, f"{wanted}.ipynb"):
        if candidate in known:
            return NOTEBOOKS / candidate
    raise Refused(
        f"no notebook is called {wanted!r} in {NOTEBOOKS} and no file is at that path{near(wanted, known)}"
    )


def lab_arguments(notebook: Path, *, browser: bool = True, port: int | None = None) -> list[str]:
    """The command line of JupyterLab that serves the notebook's folder and opens the notebook."""
    arguments = [
        f"--LabApp.default_url=/lab/tree/{quote(notebook.name)}",  # also in the address that is printed
        f"--ServerApp.root_dir={notebook.parent}",
        f"--LabServerApp.extra_labextensions_path={LABEXTENSIONS}",
        # Nothing is asked of any other machine: no news (nor the question whether one wants them), no look for a
        # newer JupyterLab, no list of extensions to install.
        f"--LabApp.app_settings_dir={LABEXTENSIONS / 'settings'}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
        "--Application.log_level=ERROR",  # the address is printed all the same
    ]
    if not browser:
        arguments.append("--no-browser")
    if port is not None:
        arguments += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # In a container one is root; the server listens on this machine only.
        arguments.append("--allow-root")
    return arguments


def open_lab(
    notebook: str | None = None, browser: bool = True, port: int | None = None, extra_args: Sequence[str] = ()
) -> int:
    """Start JupyterLab on `notebook` (default: the start page), wait for its end, return its exit status."""
    path = find_notebook(notebook)
    # A third of JupyterLab's start-up is a grammar of international addresses, which jsonschema builds if it finds
    # this package and which nothing here checks.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    try:
        from jupyterlab.labapp import LabApp
    except ModuleNotFoundError as error:
        raise Refused(
            f"{error.name} is not installed; `pip install 'workbench[lab]'` brings JupyterLab"
        ) from None
    warnings.showwarning = _without_deprecations
    try:
        LabApp.launch_instance(argv=[*lab_arguments(path, browser=browser, port=port), *extra_args])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _without_deprecations(message, category, filename, lineno, file=None, line=None) -> None:
    """Jupyter's packages tell each other about old options; that is not the first line a newcomer should read."""
    if not issubclass(category, DeprecationWarning):
        print(
            warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr
        )
