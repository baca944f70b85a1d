"""Kept variants: what was learned as one small safetensors file. The network is built anew from it and the model.

Tensors: `{setting}/scale/{point}`; `{setting}/upper/{weight}` and `{setting}/lower/{weight}` (clips). Ranges, the
method and the report are JSON in the metadata, numbers as Python writes them, so that nothing is lost.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import Refused
from ...files.save import save_safetensors
from ...grid import Report
from ...methods import parse_method
from ...methods.quantize.mobilequant import MobileQuant
from ...methods.ranges import Range
from ...model import Model
from .build import built
from .learn import Setting, start_clips
from .llama import Llama
from .variant import IntegerVariant

KEY = "workbench.mobilequant"


def save_variant(variant: IntegerVariant, path: str | os.PathLike) -> int:
    """Bytes of the file, which is written whole or not at all."""
    tensors: dict[str, Tensor] = {}
    settings = {}
    for name, setting in variant.settings.items():
        tensors |= {f"{name}/scale/{point}": s.detach() for point, s in setting.scales.items()}
        for weight, clip in setting.clips.items():
            tensors |= {
                f"{name}/upper/{weight}": clip.upper.detach(),
                f"{name}/lower/{weight}": clip.lower.detach(),
            }
        settings[name] = {
            "ranges": {p: [r.scale.item(), r.zero.item(), r.bits] for p, r in setting.ranges.items()},
            "curves": {k: [float(x) for x in v] for k, v in setting.report.curves.items()},
            "facts": dict(setting.report.facts),
            "warnings": list(setting.report.warnings),
        }
    described = {
        "method": repr(variant.method), "model": variant.base.name, "digest": _digest(variant.net),
        "seconds": variant.seconds, "settings": settings,
    }  # fmt: skip
    return save_safetensors(tensors, path, {KEY: json.dumps(described)})


def load_variant(path: str | os.PathLike, model: Model) -> IntegerVariant:
    """What `save_variant` wrote. Refused where the file is none, or was learned from other weights than the model's."""
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise Refused(
            f"{path} is no variant of mobilequant ({error}): give a file that save_variant wrote"
        ) from None
    net = Llama.read(model)
    if described["digest"] != _digest(net):
        raise Refused(
            f"{path} was learned from other weights, of {described['model']}: load that model, or learn anew"
        )
    method = parse_method(described["method"])
    assert isinstance(method, MobileQuant)
    settings = {
        name: _setting(name, each, tensors, net, method) for name, each in described["settings"].items()
    }
    return IntegerVariant(
        model, method, net, settings, built(net, settings["learned"], method), described["seconds"]
    )


@torch.no_grad()
def _setting(
    name: str, kept: Mapping[str, Any], tensors: Mapping[str, Tensor], net: Llama, method: MobileQuant
) -> Setting:
    clips = start_clips(net, method)
    for weight, clip in clips.items():
        clip.upper.copy_(tensors[f"{name}/upper/{weight}"])
        clip.lower.copy_(tensors[f"{name}/lower/{weight}"])
    start = f"{name}/scale/"
    scales = {key.removeprefix(start): s for key, s in tensors.items() if key.startswith(start)}
    ranges = {point: Range(*numbers) for point, numbers in kept["ranges"].items()}
    return Setting(
        name, scales, clips, ranges, Report(kept["curves"], kept["facts"], tuple(kept["warnings"]))
    )


def _digest(net: Llama) -> str:
    """Of every weight, so that ranges are not put on a network that they do not fit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.tensors.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
