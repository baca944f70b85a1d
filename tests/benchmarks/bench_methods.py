"""Methods on a real model: python tests/benchmarks/bench_methods.py [--bits 4] [--peer peer/bin/python] [--only GLOB]

SmolLM2-135M (`make smollm2`), groups of 64, asymmetric, 8,192 calibration tokens, KL on 4,096 others, as in the
scripts of `peers/`. For each recipe KL, perplexity, top-1 agreement, bits, seconds of calibrating and compressing, and
KL over that of rounding to nearest. With `--peer`, an interpreter that has llm-compressor, its GPTQ runs afterwards on
the same tokens, and the ratio of the times is printed. Not a test: the numbers are the machine's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from fnmatch import fnmatchcase
from pathlib import Path

import workbench as wb
from workbench.jobs import peak
from workbench.measure import Quality, evaluation

PEERS = Path(__file__).parent / "peers"


def recipes(bits: int) -> dict[str, wb.Recipe]:
    """By name; the first is the reference."""
    made = {
        "rtn": [wb.RTN(bits=bits)],
        "rtn-act": [wb.RTN(bits=bits, scale_search="activation")],
        "gptq": [wb.GPTQ(bits=bits)],
        "gptq-paper": [wb.GPTQ(bits=bits, scale_search="none", static_groups=False, order="natural")],
        "gptq-original": [wb.GPTQ(bits=bits, match="original")],
        "awq": [wb.AWQ(bits=bits)],
        "awq+gptq": [wb.AWQ(bits=bits), wb.GPTQ(bits=bits)],
        "adadim": [wb.AdaDim(bits=bits)],
        "hqq": [wb.HQQ(bits=bits)],
    }
    return {name: wb.Recipe(methods) for name, methods in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--only", default="*")
    parser.add_argument("--peer", type=Path, default=None)
    options = parser.parse_args()
    model = wb.load("smollm2-135m")
    batches = evaluation(model, part="calibration", tokens=8192).inputs_only()
    quality = Quality(model, evaluation(model, tokens=4096))
    unchanged = quality.measure({})["perplexity"]
    print(f"{model.name}, {options.bits} bits, groups of 64; perplexity {unchanged:.2f} unchanged")
    print(
        f"{'recipe':<16} {'KL':>8} {'/ rtn':>6} {'perplexity':>10} {'top-1':>6} {'bits':>6} {'seconds':>8} {'GB':>5}"
    )
    first = seconds = None
    for name, recipe in recipes(options.bits).items():
        if name != "rtn" and not fnmatchcase(name, options.only):
            continue
        begun = time.perf_counter()
        variant = wb.apply(model, recipe, calibration=batches)
        spent = time.perf_counter() - begun
        row = wb.inspect.model(variant, quality).iloc[0]
        first = first or row["kl"]
        seconds = spent if name == "gptq" else seconds
        print(
            f"{name:<16} {row['kl']:8.4f} {row['kl'] / first:6.3f} {row['perplexity']:10.2f} "
            f"{row['top1_agreement']:6.1%} {row['bits_per_weight']:6.3f} {spent:8.1f} {peak() / 1e9:5.2f}",
            flush=True,
        )
    if options.peer is not None:
        run = [str(options.peer), str(PEERS / "llm_compressor.py"), "--method", "gptq"]
        answer = json.loads(
            subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        )
        print(json.dumps(answer))
        if seconds is not None:
            print(f"seconds of gptq here over there: {seconds / answer['seconds']:.2f}")


if __name__ == "__main__":
    main()
