"""Cranfield and CISI: documents, queries, judgements, and the two halves of the queries."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PLACES = [folder / "shared" / "data" / "search" for folder in Path(__file__).resolve().parents]
DATA = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
"""Where the collections lie on a developer's machine: in a folder beside the repository, or further up."""


@dataclass(frozen=True)
class Collection:
    """A test collection."""

    name: str
    documents: Mapping[str, tuple[str, str]]
    """Title and text by name."""
    queries: Mapping[str, str]
    """Judged queries by name."""
    relevant: Mapping[str, frozenset[str]]
    """Documents that are relevant to each."""

    def half(self, which: int) -> list[str]:
        """Every other query: 0 is for tuning, 1 for reporting."""
        return list(self.queries)[which::2]

    def first(self, documents: int) -> Collection:
        """The first documents and the queries that have a relevant one among them."""
        kept = dict(list(self.documents.items())[:documents])
        relevant = {q: r & set(kept) for q, r in self.relevant.items() if r & set(kept)}
        return Collection(self.name, kept, {q: t for q, t in self.queries.items() if q in relevant}, relevant)


def cranfield(folder: Path = DATA) -> Collection:
    """1,400 abstracts of aeronautics, 225 questions. Judgements name queries by their place."""

    def text(name: str) -> str:
        return gzip.decompress((folder / "cranfield" / name).read_bytes()).decode()

    def field(document: str, name: str) -> str:
        match = re.search(rf"<{name}>(.*?)</{name}>", document, re.DOTALL)
        return " ".join(match[1].split()) if match else ""

    documents = re.findall(r"<doc>(.*?)</doc>", text("cran.all.1400.xml.gz"), re.DOTALL)
    titles = re.findall(r"<title>(.*?)</title>", text("cran.qry.xml.gz"), re.DOTALL)
    relevant: dict[str, set[str]] = defaultdict(set)
    for line in text("cranqrel.trec.txt.gz").splitlines():
        query, _, document, grade = line.split()
        if int(grade) > 0:
            relevant[query].add(document)
    return Collection(
        "Cranfield",
        {field(d, "docno"): (field(d, "title"), field(d, "text")) for d in documents},
        {q: " ".join(titles[int(q) - 1].split()) for q in relevant},
        {q: frozenset(r) for q, r in relevant.items()},
    )


def cisi(folder: Path = DATA) -> Collection:
    """1,460 abstracts of information science, 76 judged questions, many of them paragraphs."""
    documents = _smart(folder / "cisi" / "CISI.ALL.gz")
    queries = _smart(folder / "cisi" / "CISI.QRY.gz")
    relevant: dict[str, set[str]] = defaultdict(set)
    for line in gzip.decompress((folder / "cisi" / "CISI.REL.gz").read_bytes()).decode().splitlines():
        query, document = line.split()[:2]
        relevant[query].add(document)
    return Collection(
        "CISI",
        {k: (d.get("T", ""), d.get("W", "")) for k, d in documents.items()},
        {q: f"{queries[q].get('T', '')} {queries[q].get('W', '')}".strip() for q in relevant},
        {q: frozenset(r) for q, r in relevant.items()},
    )


def _smart(path: Path) -> dict[str, dict[str, str]]:
    """Records of the SMART system's format: `.I number`, then fields of one letter."""
    records: dict[str, dict[str, str]] = {}
    number = name = ""
    for line in gzip.decompress(path.read_bytes()).decode("utf-8", "replace").splitlines():
        if match := re.match(r"\.I\s+(\d+)", line):
            number, name = match[1], ""
            records[number] = {}
        elif match := re.match(r"\.([TAWXBN])\s*$", line):
            name = match[1]
        elif name:
            records[number][name] = f"{records[number].get(name, '')} {line.strip()}".strip()
    return records
