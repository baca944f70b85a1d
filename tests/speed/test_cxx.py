"""The C++ build service: cache, messages, and what happens without a compiler."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading

import pytest

from workbench.speed import CompileError, NoCompiler, cxx
from workbench.speed.compiling import cache_folder

SEVEN = 'extern "C" int seven() { return 7; }\n'


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cxx"


@pytest.fixture
def gcc() -> cxx.Compiler:
    try:
        return cxx.find_compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("gcc")
def test_a_library_is_compiled_once_and_runs(cache):
    first = cxx.compile_library(SEVEN, name="seven.cpp")
    again = cxx.compile_library(SEVEN, name="seven.cpp")
    assert ctypes.CDLL(str(first.path)).seven() == 7
    assert first.compile_s > 0 == again.compile_s
    assert [path.name for path in cache.iterdir()] == [first.path.name] == [again.path.name]


@pytest.mark.usefixtures("gcc")
def test_an_edited_header_a_flag_and_a_source_each_make_another_library(tmp_path):
    (tmp_path / "outer.h").write_text('#include "inner.h"\n')
    (tmp_path / "inner.h").write_text("constexpr int N = 1;\n")
    source = '#include "outer.h"\nextern "C" int n() { return N; }\n'
    paths = [cxx.build(source, name="n.cpp", include=[tmp_path])]
    (tmp_path / "inner.h").write_text("constexpr int N = 2;\n")
    paths.append(cxx.build(source, name="n.cpp", include=[tmp_path]))
    paths.append(cxx.build(source, name="n.cpp", include=[tmp_path], flags=["-DX"]))
    paths.append(cxx.build(source.replace("return", "return 1 +"), name="n.cpp", include=[tmp_path]))
    assert len(set(paths)) == 4
    assert [ctypes.CDLL(str(path)).n() for path in paths] == [1, 2, 2, 3]


@pytest.mark.usefixtures("gcc")
def test_the_compilers_message_has_line_and_column(cache):
    with pytest.raises(CompileError, match=r"^wrong\.cpp:2:\d+ does not compile: .*yy") as caught:
        cxx.build("int x = 1;\nint f() { return yy; }\n", name="wrong.cpp")
    first = caught.value.messages[0]
    assert (first.line, first.severity) == (2, "error")
    assert first.column in (18, 19)
    assert list(cache.iterdir()) == []


@pytest.mark.usefixtures("gcc")
def test_a_mistake_in_a_header_names_the_header(tmp_path):
    (tmp_path / "bad.h").write_text("\nint f( { }\n")
    with pytest.raises(CompileError, match=r"^user\.cpp does not compile: bad\.h:2: ") as caught:
        cxx.build('#include "bad.h"\n', name="user.cpp", include=[tmp_path])
    assert caught.value.messages[0].line is None


@pytest.mark.usefixtures("gcc")
def test_warnings_are_kept():
    built = cxx.compile_library("static int unused() { return 1; }\n", name="w.cpp", flags=["-Wall"])
    assert [(m.line, m.severity) for m in built.messages] == [(1, "warning")]


@pytest.mark.usefixtures("gcc")
def test_threads_that_build_the_same_library_all_get_it(cache):
    paths = []
    work = [threading.Thread(target=lambda: paths.append(cxx.build(SEVEN, name="s.cpp"))) for _ in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(paths) == 4
    assert len(set(paths)) == 1
    assert [path.name for path in cache.iterdir()] == [paths[0].name]


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for a compiler is a shell script")
def test_a_compiler_that_hangs_is_stopped_with_its_children(tmp_path, monkeypatch):
    pid = tmp_path / "pid"
    slow = tmp_path / "slow"
    slow.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo slow 1; exit; fi\nsleep 60 & echo $! > {pid}; wait\n'
    )
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(slow))
    with pytest.raises(CompileError, match=r"s\.cpp: the compiler was stopped after 0\.5 s"):
        cxx.build(SEVEN, name="s.cpp", timeout_s=0.5)
    child = pid.read_text().strip()
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True, check=False)
    assert state.stdout.strip()[:1] in ("", "Z")  # gone, or dead and not yet collected


def test_without_a_compiler_the_way_out_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(cxx.importlib.util, "find_spec", lambda name: None)
    cxx._find.cache_clear()
    with pytest.raises(NoCompiler, match=r'no C\+\+ compiler here: pip install "workbench\[cpp\]"'):
        cxx.build(SEVEN, name="s.cpp")
    cxx._find.cache_clear()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir(mode=0o500)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "shut"))
    assert "workbench-cxx-" in str(cache_folder("cxx"))


def test_a_cache_in_the_place_of_a_file_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    assert "workbench-cxx-" in str(cache_folder("cxx"))
