"""What the student reads, and what it is measured on: real English sentences.

To learn from: BoolQ's passages and questions (Wikipedia), NLVR2's sentences about photographs, HellaSwag's
stories, none of them non-commercial. To measure: STS-B's dev part, SICK's test part, and sentences of Tatoeba
whose nearest ones the teacher names.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from mainspring.data import Document

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Where the data lie beside the checkout."""


def data_folder() -> Path:
    """The folder of data sets: beside this checkout, or beside the checkout that a worktree belongs to."""
    for folder in (SHARED, Path("/work/shared/data")):
        if folder.is_dir():
            return folder
    raise SystemExit(f"the data sets are not at {SHARED}; put them there to run this benchmark")


def learning(seed: int = 0) -> list[Document]:
    """Sentences to distil on, shuffled."""
    root = data_folder()
    found = {*_boolq(root), *_nlvr2(root), *_hellaswag(root)}
    texts = sorted(text for text in found if 3 <= len(text.split()) <= 60)
    random.Random(seed).shuffle(texts)
    return [Document(text, "sentences", "en", str(number)) for number, text in enumerate(texts)]


def sts(root: Path) -> list[tuple[str, str, float]]:
    """STS-B's 1,500 pairs for development, with their scores."""
    pairs = []
    for line in _lines(root / "understanding/glue/STS-B/original/sts-dev.tsv.gz"):
        fields = line.rstrip("\n").split("\t")
        pairs.append((fields[5], fields[6], float(fields[4])))
    return pairs


def sick(root: Path) -> list[tuple[str, str, float]]:
    """SICK's 4,927 pairs for testing, with their relatedness."""
    reader = csv.DictReader(
        _lines(root / "understanding/sick2014/SICK_test_annotated.txt.gz"),
        delimiter="\t",
        quoting=csv.QUOTE_NONE,
    )
    return [(r["sentence_A"], r["sentence_B"], float(r["relatedness_score"])) for r in reader]


def tatoeba(root: Path, count: int = 1000) -> list[str]:
    """English sentences of Tatoeba, different ones."""
    texts = {line.strip() for line in _lines(root / "multilingual/tatoeba/tatoeba.deu-eng.eng.gz")}
    texts |= {line.strip() for line in _lines(root / "multilingual/tatoeba/tatoeba.fra-eng.eng.gz")}
    return sorted(texts)[:count]


def _boolq(root: Path) -> Iterator[str]:
    for part in ("train", "val", "test"):
        for line in _lines(root / f"understanding/boolq/{part}.jsonl.gz"):
            row = json.loads(line)
            yield row["question"].strip() + "?"
            yield from _sentences(row["passage"])


def _nlvr2(root: Path) -> Iterator[str]:
    for part in ("dev", "test1"):
        for line in _lines(root / f"vision/nlvr2/{part}.json.gz"):
            yield json.loads(line)["sentence"].strip()


def _hellaswag(root: Path) -> Iterator[str]:
    for line in _lines(root / "understanding/hellaswag/test.jsonl.gz"):
        for value in json.loads(line).values():
            if isinstance(value, str):
                yield from _sentences(value)


def _sentences(text: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        yield sentence.strip()


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file
