"""The text corpus of the embedded language model, made from Debian packages with `apt-get download`.

Four sources that stay apart as domains (prose, plain modern English, technical, satire), and one that only
adds training text. The last 2.5 % of each domain is the test part and the 2.5 % before it the calibration
part, so that calibration and evaluation domain can be crossed. Building takes seconds; the repository ships
the held-out parts, not the corpus.
"""

from __future__ import annotations

import gzip
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Domain:
    """One source of text: the Debian package it comes from and the function that reads it."""

    name: str
    package: str
    licence: str
    read: Callable[[Path], str]
    held_out: bool = True


def _austen(root: Path) -> str:
    """Six novels out of an R lazy-load database: records of a 4-byte length and a zlib stream of XDR strings."""
    raw = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    novels, at = [], 0
    while at < len(raw):
        inflate = zlib.decompressobj()
        record = inflate.decompress(raw[at + 4 :])
        at = len(raw) - len(inflate.unused_data)
        novels.append("\n".join(_xdr_strings(record)))
    return "\n\n".join(novels)


def _xdr_strings(record: bytes) -> Iterator[str]:
    """The strings of one serialized R character vector: flags 00 04 00 09, a big-endian length, the bytes."""
    at = record.find(b"\x00\x04\x00\x09")
    while 0 <= at < len(record) and record[at : at + 4] == b"\x00\x04\x00\x09":
        (length,) = struct.unpack(">i", record[at + 4 : at + 8])
        at += 8
        yield record[at : at + max(length, 0)].decode("utf-8", "replace")
        at += max(length, 0)


def _bible(root: Path) -> str:
    """World English Bible out of SWORD's zText: a 12-byte index of zlib blocks holding OSIS XML."""
    folder = next((root / "usr/share/sword/modules/texts/ztext").glob("engWEB*"))
    books = []
    for part in ("ot", "nt"):
        index, data = (folder / f"{part}.bzs").read_bytes(), (folder / f"{part}.bzz").read_bytes()
        for offset, size, _ in struct.iter_unpack("<III", index[: len(index) // 12 * 12]):
            books.append(
                _plain_osis(zlib.decompress(data[offset : offset + size]).decode("utf-8", "replace"))
            )
    return "\n\n".join(book for book in books if len(book) > 1000)


def _plain_osis(xml: str) -> str:
    xml = re.sub(r"<(note|title)\b.*?</\1>", " ", xml, flags=re.S)
    xml = re.sub(r'<(?:div|l|lg)\b[^>]*type="x-p"[^>]*>|<chapter\b[^>]*>', "\n", xml)
    text = re.sub(r"<[^>]+>", "", xml)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _jargon(root: Path) -> str:
    text = gzip.decompress((root / "usr/share/doc/jargon-text/jargon.txt.gz").read_bytes())
    return text.decode("utf-8", "replace").replace("\xa0", " ")


def _devil(root: Path) -> str:
    return gzip.decompress((root / "usr/share/dictd/devil.dict.dz").read_bytes()).decode("utf-8", "replace")


def _glosses(root: Path) -> str:
    """WordNet: every synset as `word, word: gloss`."""
    lines = []
    for path in sorted((root / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text("utf-8", "replace").splitlines():
            head, bar, gloss = line.partition(" | ")
            if not bar or line.startswith("  "):
                continue
            fields = head.split()
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            lines.append(f"{', '.join(words).replace('_', ' ')}: {gloss.strip()}")
    return "\n".join(lines)


DOMAINS = (
    Domain("austen", "r-cran-janeaustenr", "public domain", _austen),
    Domain("web", "sword-text-web", "public domain", _bible),
    Domain("jargon", "jargon-text", "public domain", _jargon),
    Domain("devil", "dict-devil", "public domain", _devil),
    Domain("glosses", "wordnet-base", "WordNet licence", _glosses, held_out=False),
)
HELD_OUT = 0.025  # of each domain for the test part, and as much again for calibration


def fetch(package: str, work: Path) -> Path:
    """Download and unpack one Debian package below `work` (once); returns the folder it was unpacked into."""
    root = work / package
    if not root.exists():
        work.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=work, check=True)
        (archive,) = work.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(archive), str(root)], check=True)
    return root


def build(work: Path) -> dict[str, dict[str, str]]:
    """{domain: {"train": text, "calibration": text, "test": text}}; a training-only domain has "train" alone."""
    parts: dict[str, dict[str, str]] = {}
    for domain in DOMAINS:
        text = domain.read(fetch(domain.package, work))
        if not domain.held_out:
            parts[domain.name] = {"train": text}
            continue
        # Split at line ends, so that no part begins inside a word.
        cuts = [text.index("\n", int(len(text) * (1 - k * HELD_OUT))) + 1 for k in (2, 1)]
        parts[domain.name] = {
            "train": text[: cuts[0]],
            "calibration": text[cuts[0] : cuts[1]],
            "test": text[cuts[1] :],
        }
    return parts
