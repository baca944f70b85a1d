"""The descriptions of the set-up agree: pyproject.toml, constraints.txt, environment.yml, and the Makefile's extras."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

CONDA_NAMES = {"torch": "pytorch", "playwright": "playwright-python"}
ONLY_CONDA = {"pip", "nodejs"}  # pip installs the library itself; nodejs is pyright[nodejs] on PyPI
GROUPS_IN_CONDA = ("lab", "dev")


def requirements(pyproject: str, *groups: str) -> dict[str, SpecifierSet]:
    """Name -> bounds of the base dependencies and the named extras (all of them, if none is named)."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for group in groups or extras for line in extras[group])]
    return {canonicalize_name(each.name): each.specifier for each in map(Requirement, lines)}


def conda_differences(environment: str, pyproject: str) -> list[str]:
    """What environment.yml names and pyproject.toml does not, or the other way round, or with other bounds."""
    lines = yaml.safe_load(environment)["dependencies"]
    from_pip = [
        line for each in lines if isinstance(each, dict) for line in each["pip"] if not line.startswith("-")
    ]
    lines = [*(line for line in lines if isinstance(line, str)), *from_pip]
    parts = [re.fullmatch(r"([A-Za-z0-9_.-]+)(.*)", line).groups() for line in lines]
    conda = {
        canonicalize_name(name): SpecifierSet(bounds) for name, bounds in parts if name not in ONLY_CONDA
    }
    wanted = {
        CONDA_NAMES.get(n, n): bounds for n, bounds in requirements(pyproject, *GROUPS_IN_CONDA).items()
    }
    wanted["python"] = SpecifierSet(tomllib.loads(pyproject)["project"]["requires-python"])
    names = sorted(conda.keys() | wanted.keys())
    return [
        f"{name}: conda {conda.get(name)}, pip {wanted.get(name)}"
        for name in names
        if conda.get(name) != wanted.get(name)
    ]


def constraint_faults(constraints: str, pyproject: str) -> list[str]:
    """Direct dependencies without an exact pin, pins outside the bounds, and pins of things nobody asked for."""
    pins = [Requirement(line) for line in constraints.splitlines() if line and not line.startswith("#")]
    exact = {
        canonicalize_name(pin.name): re.fullmatch(r"==([0-9][0-9.]*)", str(pin.specifier)) for pin in pins
    }
    wanted = requirements(pyproject)
    faults = [f"{name}: not pinned" for name in wanted.keys() - exact.keys()]
    faults += [f"{name}: pinned, but no dependency" for name in exact.keys() - wanted.keys()]
    for name in exact.keys() & wanted.keys():
        if exact[name] is None:
            faults.append(f"{name}: the pin is not ==VERSION without a local label")
        elif exact[name][1] not in wanted[name]:
            faults.append(f"{name}: {exact[name][1]} is outside {wanted[name]}")
    return sorted(faults)


@pytest.fixture
def texts(checkout) -> dict[str, str]:
    return {
        name: (checkout / name).read_text()
        for name in ("pyproject.toml", "constraints.txt", "environment.yml")
    }


def test_conda_and_pip_install_the_same_things(texts):
    assert conda_differences(texts["environment.yml"], texts["pyproject.toml"]) == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("pandas>=2.2", "pandas>=2.3", ["pandas"]),
        ("  - voila>=0.5.8\n", "", ["voila"]),
        ("pytorch>=2.6", "torch>=2.6", ["pytorch", "torch"]),
        ("python>=3.11", "python>=3.12", ["python"]),
    ],
)
def test_a_difference_between_conda_and_pip_is_found(texts, old, new, named):
    assert old in texts["environment.yml"]
    changed = texts["environment.yml"].replace(old, new)
    found = conda_differences(changed, texts["pyproject.toml"])
    assert [line.split(":")[0] for line in found] == named


def test_conda_installs_the_library_from_the_checkout(texts):
    lists = [
        line for line in yaml.safe_load(texts["environment.yml"])["dependencies"] if isinstance(line, dict)
    ]
    assert [each["pip"][0] for each in lists] == ["-e ."]


def test_every_direct_dependency_has_an_exact_pin_within_its_bounds(texts):
    assert constraint_faults(texts["constraints.txt"], texts["pyproject.toml"]) == []


@pytest.mark.parametrize(
    ("pattern", "new", "fault"),
    [
        (r"torch==.*\n", "", "torch: not pinned"),
        (r"torch==(.*)", r"torch==\1+cpu", "torch: the pin is not ==VERSION without a local label"),
        (r"numpy==.*", "numpy==1.26.4", "numpy: 1.26.4 is outside >=2.0"),
        (r"\Z", "leftpad==1.0\n", "leftpad: pinned, but no dependency"),
    ],
)
def test_a_fault_in_the_pins_is_found(texts, pattern, new, fault):
    changed = re.sub(pattern, new, texts["constraints.txt"], count=1)
    assert constraint_faults(changed, texts["pyproject.toml"]) == [fault]


# The Makefile, in a folder of its own: nothing is installed by these tests.


@pytest.fixture
def make(checkout, tmp_path):
    """make(*arguments) in a copy of the set-up files, with $PATH's first folder at make.path."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(checkout / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # `make test EXTRAS=export` hands its variables on to what it runs, these tests too.
        own = {"MFLAGS", "GNUMAKEFLAGS", "EXTRAS", "PYTHON", "TORCH_INDEX"}
        clean = {n: value for n, value in os.environ.items() if n not in own and not n.startswith("MAKE")}
        environment = clean | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            ["make", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    def tool(name: str, script: str) -> None:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)

    run.folder, run.tool = tmp_path, tool
    return run


@pytest.mark.parametrize(
    ("answer", "extras"),
    [
        ("echo '| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: 12.4     |'", "lab,cuda12"),
        ("echo '| NVIDIA-SMI 580.95   Driver Version: 580.95   CUDA Version: 13.0     |'", "lab,cuda13"),
        ("echo '| NVIDIA-SMI 595.10   KMD Version: 595.10   CUDA UMD Version: 13.2     |'", "lab,cuda13"),
        ("echo '| NVIDIA-SMI 470.00   Driver Version: 470.00   CUDA Version: 11.4     |'", "lab"),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9", "lab"),
        ("exit 127", "lab"),
    ],
)
def test_the_gpu_driver_chooses_the_extra(make, answer, extras):
    make.tool("nvidia-smi", answer)
    assert make("-s", "extras").stdout.strip() == extras


def test_an_old_python_is_refused_in_one_line(make):
    make.tool("python-old", 'test "$1" = --version && echo Python 3.9.6; exit 1')
    result = make("install", "PYTHON=python-old")
    assert result.returncode != 0
    assert result.stderr.splitlines()[0] == "PYTHON=python-old is not Python 3.11 or newer (Python 3.9.6)."


def test_a_python_without_venv_is_told_what_to_install(make):
    make.tool("python-bare", f'test "$1" = -m && exit 1; exec "{sys.executable}" "$@"')
    make.tool("uv", "exit 1")
    result = make("install", "PYTHON=python-bare")
    assert result.returncode != 0
    assert "apt install python3-venv" in result.stderr
    assert not (make.folder / ".venv").exists()


def test_the_second_time_nothing_is_installed_until_a_pin_changes(make):
    make.tool("nvidia-smi", "exit 127")
    venv = make.folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "bin" / "activate").write_text(f'VIRTUAL_ENV="{Path(venv).resolve()}"\n')
    assert make("-q", "install").returncode == 1, "not installed yet"
    for name in (".made", ".installed-lab"):
        (venv / name).touch()
    assert make("-q", "install").returncode == 0
    later = (venv / ".installed-lab").stat().st_mtime + 10
    os.utime(make.folder / "constraints.txt", (later, later))
    assert make("-q", "install").returncode == 1


def test_a_moved_checkout_gets_a_new_environment(make):
    make.tool("nvidia-smi", "exit 127")
    venv = make.folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "bin" / "activate").write_text('VIRTUAL_ENV="/somewhere/else/.venv"\n')
    for name in (".made", ".installed-lab"):
        (venv / name).touch()
    assert make("-q", "install").returncode == 1
