"""Keeps the process that emulated kernels run in: starts it, talks to it, ends it when it hangs or has crashed."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from pathlib import Path

CHILD = Path(__file__).with_name("child.py")
MOST_LIBRARIES = 12  # in one process: each maps 2048 pieces of memory for its stacks, and Linux allows 65530
GRACE_S = 5.0  # a process that did not answer this long after its own time limit is ended


class Worker:
    """One process, one request at a time; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a process forked from this one must not talk through its pipes
        self._libraries: set[str] = set()

    def ask(self, request: dict) -> dict:
        """The child's answer. A child that died or hung is an answer too: kind "crash" or "time limit"."""
        with self._lock:
            self._libraries.add(request["library"])
            if len(self._libraries) > MOST_LIBRARIES:
                self.close()
                self._libraries = {request["library"]}
            process = self._start()
            assert process.stdin
            assert process.stdout
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                ready, _, _ = select.select([process.stdout], [], [], request["limit_ms"] / 1e3 + GRACE_S)
                line = process.stdout.readline() if ready else ""
            except BrokenPipeError:
                ready, line = [process.stdout], ""
            if line:
                return json.loads(line)
            self.close()
            if not ready:
                return _ended(
                    "time limit", f"no end after {request['limit_ms'] / 1e3:g} s; its process was ended"
                )
            return _ended("crash", f"its process ended with status {process.returncode}")

    def _start(self) -> subprocess.Popen[str]:
        if self._owner != os.getpid():
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
        return self._process

    def close(self) -> None:
        """End the process; the next request starts another."""
        if self._process and self._owner == os.getpid():
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    if stream:
                        stream.close()
            self._process.kill()
            self._process.wait()
            self._process = None


def _ended(kind: str, text: str) -> dict:
    return {"kind": kind, "text": text, "block": [0] * 3, "thread": [0] * 3, "line": 0, "seconds": 0.0}


WORKER = Worker()
atexit.register(WORKER.close)
