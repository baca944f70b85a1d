"""The process in which a kernel that somebody edited runs on the GPU for the first time: one JSON request on stdin.

It ends with status 0 if the launch ended, whatever it computed; the check against float64 comes later, in the
process that asked. An illegal address ends this process's context and no other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> None:
    sys.path.append(str(Path(__file__).parents[2]))  # where this package lies, installed or not
    from workbench.speed import cuda
    from workbench.speed.kernel import FOLDER, Kernel

    request = json.load(sys.stdin)
    kernel = Kernel.parse(request["source"], where=str(FOLDER / Path(request["where"]).name))
    device, why = cuda.find_device()
    if device is None:
        raise SystemExit(why)
    sets = cuda.operand_sets(kernel, tuple(request["shape"]), device)
    candidate, _ = cuda.candidate(kernel, sets, device)
    candidate.poison()
    candidate.run(0)
    candidate.output()


if __name__ == "__main__":
    main()
