"""A model by its id on the Hugging Face hub, as a folder in the local cache: safetensors, config, tokenizer.

Never pickles, never code. One question with a short time limit decides whether the hub answers; if it does
not, the cache is asked, so that a mistyped id fails in seconds on a laptop without network.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Refused
from .content import say, short

PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
)
TIMEOUT = 5  # seconds for one answer of the hub
_REPO_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_WAY_OUT = "download it on a machine that can and give the directory"


def fetch(repo_id: str) -> Path:
    """The local folder of hub model `repo_id` ("owner/name"), downloaded or from the cache.

    Refused in one line where the id is none, does not exist, is gated, or the hub does not answer and the
    cache does not hold it.
    """
    if not _REPO_ID.fullmatch(repo_id) or "--" in repo_id or ".." in repo_id:
        raise Refused(f"{short(repo_id)} is neither a path that exists nor a hub id of the form owner/name")
    with _quiet():
        import huggingface_hub as hub

        trouble = _trouble(repo_id)
        try:
            found = hub.snapshot_download(
                repo_id,
                allow_patterns=list(PATTERNS),
                etag_timeout=TIMEOUT,
                local_files_only=trouble is not None,
            )
        except (
            Exception
        ) as error:  # whatever the hub, its client or the disk raise: the person needs one line
            why = trouble or _words(error)
            raise Refused(f"hub model {repo_id!r} is not in the local cache and {why}; {_WAY_OUT}") from error
    return Path(found)


def _trouble(repo_id: str) -> str | None:
    """Why the hub will not serve `repo_id`, within about twice TIMEOUT seconds; None where it will."""
    answer: queue.Queue[str | None] = queue.Queue()

    def ask() -> None:
        import huggingface_hub as hub

        try:
            hub.HfApi().model_info(repo_id, timeout=TIMEOUT)
            answer.put(None)
        except Exception as error:
            answer.put(_words(error))

    # A thread, because a name server that drops packets holds getaddrinfo for longer than any time limit.
    threading.Thread(target=ask, daemon=True, name=f"hub {repo_id}").start()
    try:
        return answer.get(timeout=2 * TIMEOUT)
    except queue.Empty:
        return f"the hub did not answer within {2 * TIMEOUT} s"


def _words(error: Exception) -> str:
    """What went wrong, as a clause."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "it is gated: accept its terms on huggingface.co and log in with hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no public model of that id"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE=1 forbids to ask the hub"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub answered: {say(error)}"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"it could not be saved: {say(error)}"
    return f"the hub cannot be reached ({say(error)})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors come as Refused; the client's warnings about retries and missing log-ins would only bury it."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
