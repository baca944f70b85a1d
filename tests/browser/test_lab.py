"""`workbench lab` finds its notebook, or says what is wrong; that it serves one is what all tests here stand on."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from workbench.errors import Refused
from workbench.widgets import lab as lab_module
from workbench.widgets.lab import find_notebook, lab_arguments, open_lab


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    for name in ("00_start.ipynb", "01_number_grids.ipynb"):
        (tmp_path / name).write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    monkeypatch.setattr(lab_module, "NOTEBOOKS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, "00_start.ipynb"),
        ("01_number_grids", "01_number_grids.ipynb"),
        ("01_number_grids.ipynb", "01_number_grids.ipynb"),
    ],
)
def test_a_notebook_is_found_by_its_name(notebooks, name, found):
    assert find_notebook(name) == notebooks / found


def test_a_path_is_taken_before_a_name(notebooks, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("mine"))
    mine = tmp_path_factory.getbasetemp() / "mine.ipynb"
    mine.write_text((notebooks / "00_start.ipynb").read_text())
    assert find_notebook(str(mine)) == mine.resolve()


def test_an_unknown_notebook_is_refused_with_the_near_ones(notebooks):
    with pytest.raises(Refused, match=r"no notebook is called '01_grids'.*near: 01_number_grids.ipynb"):
        open_lab("01_grids")


def test_an_installation_without_the_repository_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(lab_module, "NOTEBOOKS", tmp_path / "none")
    with pytest.raises(Refused, match="the notebooks are in the repository"):
        open_lab()


def test_no_news_and_no_look_for_updates(notebooks):
    arguments = lab_arguments(find_notebook())
    assert "--LabApp.news_url=None" in arguments
    assert "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate" in arguments
    assert "--no-browser" not in arguments


def test_a_port_that_is_taken_ends_with_status_1(notebooks):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = "import sys; from workbench.widgets.lab import open_lab; "
        code += "sys.exit(open_lab(sys.argv[1], browser=False, port=int(sys.argv[2])))"
        command = [sys.executable, "-c", code, str(notebooks / "00_start.ipynb"), str(port)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert f"port {port} is not available" in ended.stderr


def test_the_command_starts_without_the_library():
    code = "import sys, workbench.widgets.lab; print(*sys.modules.keys() & {'torch', 'plotly', 'pandas', 'ipywidgets'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == []
