"""Pickled checkpoints (.bin, .pt, .pth, .ckpt, .pkl): recognised, never opened.

A pickle is a program that runs when it is loaded. `weights_only=True` fences most of that in, yet the
decision to trust a file belongs to a person, so the refusal says the two lines that convert it.
"""

from __future__ import annotations

from ..errors import Refused

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def is_pickle(head: bytes) -> bool:
    """Whether the first bytes are those of torch.save: a zip archive, or a bare pickle of protocol 2 to 5."""
    return head.startswith(b"PK\x03\x04") or (
        head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")
    )


def refusal(path: str) -> Refused:
    """The one refusal of every pickle, with the way to convert it. `path` is printable."""
    return Refused(
        f"{path} is a pickle (torch.save), which can run code when opened, so it is never opened here; "
        "convert it: "
        f"state = torch.load({path!r}, weights_only=True), then safetensors.torch.save_file(state, "
        '"model.safetensors")'
    )
