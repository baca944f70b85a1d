"""GPTQ and AWQ of llm-compressor on smollm2-135m: W4A16, asymmetric, groups of 64, 8,192 calibration tokens.

    python -m venv peer && peer/bin/pip install torch==2.13.0 llmcompressor==0.14.0.1
    peer/bin/python tests/benchmarks/peers/llm_compressor.py --method gptq

Prints one JSON line. `--actorder` is the order of GPTQ's columns: static is the tool's default, none is plain GPTQ.
Without an accelerator its AWQ stops at pinning memory for one; here that step is left out, which changes no number.
Seconds are of the compression alone, without loading and measuring. The file has not the package's name, which it
would hide.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from typing import Any

import torch
from measured import BITS, CALIBRATION, GROUP, Clock, arguments, kl, load, report, windows


def main() -> None:
    options = arguments(__doc__ or "", method=("gptq", "awq"), actorder=("static", "group", "none"))
    original = load(options.model)
    model = copy.deepcopy(original)
    ids = windows(options.model, "calibration", CALIBRATION).tolist()
    clock = Clock()
    with contextlib.redirect_stdout(sys.stderr):  # its log goes to stdout
        from datasets import Dataset
        from llmcompressor import oneshot

        steps = recipe(options.method, None if options.actorder == "none" else options.actorder)
        data = Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids])
        with clock.running():
            oneshot(
                model=model,
                dataset=data,
                recipe=steps,
                max_seq_length=len(ids[0]),
                num_calibration_samples=len(ids),
            )
    # The compressed model rounds its weights to their codes whenever it runs.
    divergence = kl(original, model, options.model)
    more = {"actorder": options.actorder} if options.method == "gptq" else {}
    report(f"llmcompressor-{options.method}", "llmcompressor", clock, divergence, **more)


def recipe(method: str, order: str | None) -> list[Any]:
    """What llm-compressor is to do, in its own words."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache

    weights = {"num_bits": BITS, "type": "int", "symmetric": False, "strategy": "group", "group_size": GROUP}
    where: dict[str, Any] = {
        "config_groups": {"all": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    if method == "gptq":
        return [GPTQModifier(**where, actorder=order)]
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
    return [AWQModifier(), QuantizationModifier(**where)]


if __name__ == "__main__":
    main()
