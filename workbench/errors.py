"""Bad input, said in one clear line: what, where, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Refused(ValueError):
    """The input cannot be worked with. The message is one sentence that a person can act on: it names what is
    wrong, where, and the way out. The shell prints it and exits with 1; the bench shows it beside its control."""


def near(word: str, known: Iterable[str], most: int = 4) -> str:
    """The known words closest to `word`, as the end of an error message: "; near: a, b" or "; known: a, b, c"."""
    known = [str(name) for name in known]
    close = difflib.get_close_matches(word, known, n=most, cutoff=0.5)
    # A fragment of a long name (a layer's "q_proj") is near too, although difflib finds little in common; and so is
    # one whose last part is misspelt ("*.upproj").
    part = word.strip("*.")
    tails = difflib.get_close_matches(part, {name.rpartition(".")[2] for name in known}, n=1, cutoff=0.7)
    close += [n for n in known if part and n not in close and (part in n or n.rpartition(".")[2] in tails)]
    if close:
        return f"; near: {', '.join(close[:most])}"
    return f"; known: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}" if known else ""
