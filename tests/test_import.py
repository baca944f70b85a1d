"""What an import costs and what it brings along, each in a fresh interpreter.

Seconds are those of the processor: on a busy machine a clock on the wall tells of the others.
"""

from __future__ import annotations

import json
import subprocess
import sys

MEASURED = """
import json, sys, time
began = time.process_time()
import {module}
seconds = time.process_time() - began
print(json.dumps({{"seconds": seconds, "modules": sorted(name.split(".")[0] for name in sys.modules)}}))
"""


def imported(module, checkout, before=""):
    code = before + MEASURED.format(module=module)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_the_library_is_imported_in_under_a_second_and_brings_no_heavy_one(checkout):
    runs = [imported("workbench", checkout) for _ in range(3)]
    heavy = {
        "torch",
        "transformers",
        "pandas",
        "plotly",
        "numba",
        "scipy",
        "ipywidgets",
        "IPython",
        "pydantic",
    }
    assert not heavy & set(runs[0]["modules"])
    assert min(run["seconds"] for run in runs) < 1


WITHOUT = """
import sys
for name in ("ipywidgets", "anywidget", "IPython", "plotly"):
    sys.modules[name] = None  # as if it were not installed
"""


def test_a_headless_machine_needs_neither_widgets_nor_plotly(checkout):
    rooms = ", ".join(f"workbench.{room}" for room in ("engine", "files.load", "spectra", "speed"))
    modules = set(imported(rooms, checkout, WITHOUT)["modules"])
    assert "torch" in modules
    assert "transformers" not in modules


def test_dir_lists_the_public_names_without_importing_them(checkout):
    code = (
        "import sys, workbench as wb; names = dir(wb); assert 'torch' not in sys.modules;"
        "assert {'load', 'RTN', 'Recipe', 'apply', 'engine', 'Bench'} <= set(names)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=checkout, timeout=120, check=True)
