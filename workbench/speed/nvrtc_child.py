"""The process that compiles: one JSON request on stdin, one JSON answer on stdout, then it ends.

NVRTC is a large C++ library that can crash, hang or keep memory; here it can do so without harm to the
notebook that asked. Standard library only and no import of this package, so that it starts in some 20 ms.
Request: library, builtins (paths), source, name, arch (may be "": only the version is asked for), options.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import sys
import time


def main() -> None:
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever the library prints must not land in the JSON
    request = json.load(sys.stdin)
    try:
        answer = run(request)
    except (OSError, AttributeError) as error:  # a library that does not load, or lacks a function
        answer = {"broken": str(error)}
    with os.fdopen(answer_to, "w", encoding="utf-8") as out:
        json.dump(answer, out)


def run(request: dict) -> dict:
    if request["builtins"]:
        # NVRTC opens its builtins by bare name; in a wheel's folder it finds them only if they are loaded.
        ctypes.CDLL(request["builtins"], mode=ctypes.RTLD_GLOBAL)
    lib = ctypes.CDLL(request["library"])
    lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    lib.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    supported = (ctypes.c_int * count.value)()
    lib.nvrtcGetSupportedArchs(supported)
    answer = {"version": f"{major.value}.{minor.value}", "supported": list(supported)}

    arch = request["arch"]
    if not arch or int(arch.removeprefix("sm_").rstrip("af")) not in answer["supported"]:
        return answer

    program = ctypes.c_void_p()
    source, name = request["source"].encode(), request["name"].encode()
    lib.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None)
    options = [f"--gpu-architecture={arch}", "--ptxas-options=-v", *request["options"]]
    began = time.perf_counter()
    code = lib.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    )
    answer["compile_ms"] = 1e3 * (time.perf_counter() - began)
    answer["error"] = "" if code == 0 else lib.nvrtcGetErrorString(code).decode()
    answer["log"] = _read(lib, program, "ProgramLog").rstrip(b"\0").decode("utf-8", "replace")
    if code == 0:
        answer["ptx"] = _read(lib, program, "PTX").rstrip(b"\0").decode()
        answer["cubin"] = base64.b64encode(_read(lib, program, "CUBIN")).decode()
    return answer


def _read(lib: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(lib, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


if __name__ == "__main__":
    main()
