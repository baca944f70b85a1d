"""AWQ of AutoAWQ on smollm2-135m: W4A16, asymmetric, groups of 64, 8,192 calibration tokens.

    python -m venv peer && peer/bin/pip install torch==2.13.0 setuptools wheel
    peer/bin/pip install --no-build-isolation autoawq==0.2.9
    peer/bin/python tests/benchmarks/peers/autoawq.py

Prints one JSON line. AutoAWQ is no longer maintained. Its packed layers want a GPU, so the search runs as always and
the weights are rounded by AutoAWQ's own function, in float32. Seconds are of search and rounding alone. `--clip on`
is AutoAWQ's default; without a GPU it takes more than an hour.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
from measured import BITS, CALIBRATION, GROUP, Clock, arguments, kl, load, report, windows


def main() -> None:
    options = arguments(__doc__ or "", clip=("on", "off"))
    ids = windows(options.model, "calibration", CALIBRATION).tolist()
    with contextlib.redirect_stdout(sys.stderr):
        model, clock = compress(options.model, ids, options.clip == "on")
    divergence = kl(load(options.model), model, options.model)
    report("autoawq", "autoawq", clock, divergence, clip=options.clip)


def compress(folder: Path, ids: list[list[int]], clip: bool) -> tuple[torch.nn.Module, Clock]:
    """(the changed model, the time that it took)."""
    from awq import AutoAWQForCausalLM

    wrapped = AutoAWQForCausalLM.from_pretrained(
        str(folder), torch_dtype=torch.float32, device_map="cpu", safetensors=True, trust_remote_code=False
    )
    config = {"zero_point": True, "q_group_size": GROUP, "w_bit": BITS, "version": "GEMM"}
    clock = Clock()
    with clock.running():
        wrapped.quantize(
            tokenizer=None,
            quant_config=config,
            calib_data=ids,
            max_calib_samples=len(ids),
            max_calib_seq_len=len(ids[0]),
            apply_clip=clip,
            export_compatible=True,  # scales and clips; the rounding follows
        )
        for name, module in wrapped.model.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                module.weight.data = wrapped.quantizer.pseudo_quantize_tensor(module.weight.data)[0]
    return wrapped.model.eval(), clock


if __name__ == "__main__":
    main()
