"""`load`: whatever names a network becomes a Model.

An embedded name, a Hugging Face directory or hub id, a safetensors file or sharded index, or a torch module.
Only headers are read; nothing is unpickled and no code of a checkpoint is run.
"""

from __future__ import annotations

import copy
import json
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from ..errors import Refused, near
from ..model import Model, Runner, Source, checkpoint_layers, module_layers, zoo
from ..model.runner import Task
from .hub import fetch
from .open import open_source

CONTEXT = 512  # tokens a window at most: perplexities are comparable, and two cores can hold the logits
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
# While transformers builds a network it patches itself for the whole process (tied weights, default dtype, device):
# of two threads that build at once, one finds its tied head missing, and the patch may stay for good.
_BUILDING = threading.Lock()
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")

Openable: TypeAlias = str | os.PathLike | nn.Module | Model


def load(
    what: Openable,
    *,
    name: str | None = None,
    tokenizer: Any = None,
    task: Task | None = None,
) -> Model:
    """Open a network without reading its weights.

    `what`: an embedded name ("tiny-llama"; see `workbench zoo`), a directory with config.json and safetensors, a
    hub id ("org/name"), a .safetensors file or .safetensors.index.json, or a torch module (copied when it is
    first run, never changed); a Model is returned as it is. `tokenizer` and `task` are for modules, where nothing
    tells them.

    Raises Refused where it cannot be opened safely: pickles, truncated or lying files, missing shards, unknown
    names.
    """
    if isinstance(what, Model):
        return what
    if isinstance(what, nn.Module):
        return _from_module(what, name, tokenizer, task)
    try:
        text = os.fspath(what)
    except TypeError:
        raise Refused(f"load takes a name, a path or a torch module, not {type(what).__name__}") from None
    if zoo.is_embedded(text):
        return _from_path(zoo.embedded(text).folder, text)
    path = Path(text).expanduser()
    if path.exists():
        return _from_path(path, name)
    if HUB_ID.match(text) and not text.startswith((".", "/")):
        return _from_path(fetch(text), name or text)
    known = [entry.name for entry in zoo.MODELS]
    raise Refused(
        f"there is no file, directory or embedded model {text!r}{near(text, known)}; a hub id has the form org/name"
    )


def _from_path(path: Path, name: str | None) -> Model:
    source = open_source(path)
    folder = path if path.is_dir() else None
    config = _configuration(folder)
    layers = checkpoint_layers(source, config)
    runner = _runner(folder, config, source)
    return Model(name or path.resolve().name, source, layers, config, folder, runner)


def _from_module(module: nn.Module, name: str | None, tokenizer: Any, task: Task | None) -> Model:
    source, layers = module_layers(module)
    config: Any = getattr(module, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    if task is None and any(word in type(module).__name__ for word in ("CausalLM", "LMHead")):
        task = "language"
    runner: Runner | str = (
        f"{type(module).__name__} in memory: pass task='language' or 'classification' to load"
    )
    if task is not None:
        context = _context(settings)
        runner = Runner(
            lambda: copy.deepcopy(module).float(), task, context, (lambda: tokenizer) if tokenizer else None
        )
    return Model(name or type(module).__name__, source, layers, settings, None, runner)


def _configuration(folder: Path | None) -> dict[str, Any]:
    path = None if folder is None else folder / "config.json"
    if path is None or not path.exists():
        return {}
    try:
        config = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Refused(f"{path} is not JSON ({error}): fetch it again") from None
    if not isinstance(config, dict):
        raise Refused(f"{path} holds a {type(config).__name__}, not a model's configuration")
    return config


def _runner(folder: Path | None, config: dict[str, Any], source: Source) -> Runner | str:
    """What runs a checkpoint, or the reason in one sentence why nothing does."""
    if folder is None:
        return f"{source.origin} is weights alone: give the directory that holds config.json too"
    if not config:
        return f"{folder} has no config.json: its layers open, but nothing says how to run them"
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        return f"{folder} is packed by {method}: its tensors can be looked at, running it is not supported"
    if config.get("task") == "classification" and "architecture" in config:
        return _image_network(folder, config, source)
    architectures = config.get("architectures") or []
    if not any("CausalLM" in a or "LMHead" in a for a in architectures) and "model_type" not in config:
        return f"{folder}/config.json names no architecture"
    return Runner(
        _causal_language_model(folder, config),
        "language",
        _context(config),
        _tokenizer(folder),
        frame=lambda: _frame(folder),
    )


def _image_network(folder: Path, config: dict[str, Any], source: Source) -> Runner | str:
    """One of the embedded image networks, in its own folder or in one that it was exported to."""
    from ..model.zoo.networks import NETWORKS

    name = config["architecture"]
    if name not in NETWORKS:
        return f"{folder}/config.json: no image network is called {name!r}{near(str(name), NETWORKS)}"
    try:
        mean, deviation = float(config["mean"]), float(config["deviation"])
    except (KeyError, TypeError, ValueError):
        return f"{folder}/config.json lacks mean and deviation of the images: copy the original's"

    def build() -> nn.Module:
        module = NETWORKS[name]()
        state = {n: source.read(n) for n in source}
        try:
            module.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in state.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise Refused(f"{folder} cannot be run as {name}: {reason}") from None
        return module

    return Runner(build, "classification", prepare=lambda images: (images.float() / 255 - mean) / deviation)


def _context(config: dict[str, Any]) -> int:
    """Tokens a window: what the model was made for, at most CONTEXT."""
    return min(CONTEXT, int(config.get("max_position_embeddings") or config.get("n_positions") or CONTEXT))


def _causal_language_model(folder: Path, config: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        kind = ", ".join(config.get("architectures") or [config.get("model_type", "?")])
        try:
            with _BUILDING:
                loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                    folder,
                    dtype=torch.float32,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except Exception as error:  # transformers raises many kinds; all of them mean: layers only
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            if config.get("auto_map"):
                reason = "it needs code of its own (auto_map), which is never run here"
            raise Refused(
                f"{folder}: transformers {transformers.__version__} cannot run {kind}: {reason}. "
                "Its layers can be opened, quantized and compared all the same; model measures cannot be made"
            ) from None
        module, found = loaded
        if missing := sorted(found["missing_keys"]):
            # transformers fills them with random numbers and goes on; the measures would be of nothing.
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise Refused(
                f"{folder} lacks {', '.join(missing[:3])}{more}, which {kind} needs to run: get the whole checkpoint"
            )
        return module

    return build


def _frame(folder: Path) -> nn.Module:
    """The network with its buffers and without its parameters (on the meta device), for `model.Chain`."""
    import transformers
    from transformers.initialization import no_init_weights

    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":  # one that is tied stays the one it is
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    with _BUILDING:
        nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
        try:
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            with no_init_weights():
                module = transformers.AutoModelForCausalLM.from_config(
                    config, dtype=torch.float32, trust_remote_code=False
                )
            module.tie_weights()
            return module
        finally:
            nn.Module.register_parameter = register


def _tokenizer(folder: Path) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        reason = "it has neither tokenizer.json nor a vocabulary"
        # Without these transformers makes an empty tokenizer of the architecture's kind.
        if any((folder / name).exists() for name in TOKENIZER_FILES):
            try:
                return transformers.AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise Refused(
            f"no tokenizer could be made from {folder}: {reason}; put the model's own tokenizer.json there"
        )

    return build
