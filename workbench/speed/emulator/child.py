"""The process in which emulated kernels run: one JSON request per line on stdin, one JSON answer per line on stdout.

A kernel can write anywhere, loop for ever or overflow its stack; here it does so without harm to the notebook that
asked. Standard library only and no import of this package, so that it starts in some 20 ms. Operands lie one after
the other in a file that both processes map; results are written back there.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
import time

U32, I32, U64 = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64


class Operand(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 16),
        ("data", ctypes.c_void_p),
        ("bytes", U64),
        *(
            (name, U32)
            for name in ("element", "output", "rows", "columns", "pitch", "box_rows", "box_columns", "keep")
        ),
    ]


class Request(ctypes.Structure):
    _fields_ = [
        ("operands", ctypes.POINTER(Operand)),
        ("count", U32),
        ("M", I32),
        ("N", I32),
        ("K", I32),
        ("grid", U32 * 3),
        ("block", U32 * 3),
        ("shared", U32),
        ("schedule", U32),
        ("seed", U64),
        ("without", ctypes.POINTER(I32)),
        ("without_count", U32),
        ("limit_ms", U32),
        ("precise", U32),
    ]


class Report(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_char * 32),
        ("text", ctypes.c_char * 480),
        ("block", U32 * 3),
        ("thread", U32 * 3),
        ("line", I32),
        ("switches", U64),
        ("places", U32 * 2),
    ]


def main() -> None:
    answers = os.dup(1)
    # What a kernel prints must neither land in the JSON nor fill the terminal: every thread prints.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with os.fdopen(answers, "w", encoding="utf-8") as out:
        for line in sys.stdin:
            json.dump(run(json.loads(line)), out)
            out.write("\n")
            out.flush()


def run(asked: dict) -> dict:
    library = ctypes.CDLL(asked["library"])
    takes = library.workbench_parameters()
    if takes != len(asked["operands"]) + 3:
        text = f"the function takes {takes} arguments, its header says {len(asked['operands'])} operands and M, N, K"
        return {
            "kind": "arguments",
            "text": text,
            "block": [0] * 3,
            "thread": [0] * 3,
            "line": 0,
            "seconds": 0.0,
        }
    with open(asked["data"], "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        bytes_of = (ctypes.c_char * len(data)).from_buffer(data)
        try:
            return _launch(library, asked, ctypes.addressof(bytes_of))
        finally:
            del bytes_of


def _launch(library: ctypes.CDLL, asked: dict, at: int) -> dict:
    operands = (Operand * len(asked["operands"]))()
    for operand, said in zip(operands, asked["operands"], strict=True):
        operand.name = said.pop("name").encode()[:15]
        operand.data = at + said.pop("offset")
        for key, value in said.items():
            setattr(operand, key, value)
    without = (I32 * max(1, len(asked["without"])))(*asked["without"])
    request = Request(
        operands,
        len(operands),
        *asked["shape"],
        (U32 * 3)(*asked["grid"]),
        (U32 * 3)(*asked["block"]),
        asked["shared"],
        asked["schedule"],
        asked["seed"],
        without,
        len(asked["without"]),
        asked["limit_ms"],
        asked["precise"],
    )
    report = Report()
    began = time.perf_counter()
    library.workbench_emulate(ctypes.byref(request), ctypes.byref(report))
    return {
        "kind": report.kind.decode(),
        "text": report.text.decode("utf-8", "replace"),
        "block": list(report.block),
        "thread": list(report.thread),
        "line": report.line,
        "places": list(report.places),
        "seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    main()
