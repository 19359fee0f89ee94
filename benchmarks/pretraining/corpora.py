"""Real text of the direction benchmarks, read from where the project keeps its data; none of it is shipped.

Training and held-out text: paragraphs of wikitext-2 (valid, test) and passages of BoolQ, both of Wikipedia,
CC BY-SA 3.0; sentence pairs of Tatoeba, CC BY 2.0 FR. Probes: UD English-EWT, CC BY-SA 4.0, and SST-2
(research use; read here, never copied).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from mainspring.data.build import build
from mainspring.data.dataset import TokenData
from mainspring.data.documents import Document
from mainspring.data.pairs import PairData
from mainspring.text.train import TokenizerSpec

# fmt: off
LANGUAGES = (
    "bul", "ces", "dan", "deu", "ell", "epo", "fin", "fra", "heb", "hun", "ind", "ita",
    "lit", "nld", "nob", "pol", "por", "ron", "rus", "slk", "spa", "swe", "tur", "ukr",
)
# fmt: on
"""Partners of English: alphabetic scripts, a thousand pairs each."""
WIKITEXT = ("lm/wikitext-2/valid.txt.gz", "lm/wikitext-2/test.txt.gz")
BOOLQ = ("understanding/boolq/train.jsonl.gz", "understanding/boolq/val.jsonl.gz")
EWT = ("multilingual/ud/UD_English-EWT/en_ewt-um-dev.conllu.gz",)
EWT_TEST = "multilingual/ud/UD_English-EWT/en_ewt-um-test.conllu.gz"
SST2, SST2_TEST = ("understanding/glue/SST-2/train.tsv.gz", "understanding/glue/SST-2/dev.tsv.gz")
# fmt: off
CLASSES = frozenset({
    "N", "PROPN", "V", "AUX", "ADJ", "ADV", "PRO", "DET", "ADP", "CONJ", "NUM", "PART", "INTJ", "SYM",
})
# fmt: on


def missing(data: Path) -> list[str]:
    """Files that are needed and not there."""
    pairs = [f"multilingual/tatoeba/tatoeba.{c}-eng.{side}.gz" for c in LANGUAGES for side in (c, "eng")]
    needed = [*WIKITEXT, *BOOLQ, *EWT, EWT_TEST, SST2, SST2_TEST, *pairs]
    return [name for name in needed if not (data / name).exists()]


def lines(path: Path) -> Iterator[str]:
    """Lines of a gzipped file, without their ends."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def paragraphs(data: Path) -> Iterator[Document]:
    """Paragraphs of wikitext-2 and passages of BoolQ, each once."""
    for name in WIKITEXT:
        for line in lines(data / name):
            if len(line) > 200:
                yield _document(line.strip().replace(" @-@ ", "-").replace(" @,@ ", ","))
    seen = set()
    for name in BOOLQ:
        for line in lines(data / name):
            passage = json.loads(line)["passage"]
            if passage not in seen:  # several questions share one
                seen.add(passage)
                yield _document(passage)


def prepare_english(data: Path, out: Path) -> None:
    """Token shards of English text; a twentieth of the paragraphs is held out."""
    spec = TokenizerSpec(kind="wordpiece", vocab_size=4096)
    build([("english", list(paragraphs(data)))], spec, out, holdout=0.05)


def prepare_bilingual(data: Path, out: Path) -> None:
    """Token shards of both sides of the training pairs, and the pairs themselves in `out`/pairs."""
    chosen = [pair for code in LANGUAGES for pair in tatoeba(data, code, "train")]
    sentences = [_document(side) for pair in chosen for side in pair]
    spec = TokenizerSpec(kind="wordpiece", vocab_size=8192)
    build([("tatoeba", sentences)], spec, out, holdout=0.0)
    PairData.encode(chosen, TokenData.open(out).tokenizer, max_tokens=30).save(out / "pairs")


def tatoeba(data: Path, code: str, part: str) -> list[tuple[str, str]]:
    """Pairs of a language with English; the hash of the English side says which part a pair belongs to, so
    that no English sentence of a test is in the training text of another language."""
    stem = data / "multilingual/tatoeba" / f"tatoeba.{code}-eng"
    found: dict[str, str] = {}
    for foreign, english in zip(lines(Path(f"{stem}.{code}.gz")), lines(Path(f"{stem}.eng.gz")), strict=True):
        tenth = hashlib.sha256(english.lower().encode()).digest()[0] % 10
        where = "test" if tenth < 2 else "dev" if tenth == 2 else "train"
        if where == part and foreign.strip() and english.strip():
            found.setdefault(english.strip(), foreign.strip())
    return [(foreign, english) for english, foreign in found.items()]


def tagged(path: Path) -> list[list[tuple[str, str]]]:
    """Words and parts of speech of the sentences of a treebank whose tags are UniMorph's."""
    sentences: list[list[tuple[str, str]]] = [[]]
    for line in lines(path):
        fields = line.split("\t")
        if not line:
            sentences.append([])
        elif len(fields) == 10 and fields[0].isdigit():
            tags = [tag.partition(".")[0] for tag in fields[5].split(";")]
            sentences[-1].append((fields[1], next((t for t in tags if t in CLASSES), tags[0])))
    return [sentence for sentence in sentences if sentence]


def sentiments(path: Path, most: int) -> list[tuple[str, str]]:
    """Sentences of SST-2 with their labels, the first `most` that have at least five words."""
    found = []
    for line in list(lines(path))[1:]:
        text, _, label = line.rpartition("\t")
        if text.count(" ") >= 4:
            found.append((text.strip(), label))
        if len(found) == most:
            break
    return found


PREPARE: dict[str, Callable[[Path, Path], None]] = {
    "english": prepare_english,
    "bilingual": prepare_bilingual,
}


def _document(text: str) -> Document:
    return Document(text, "text", None, "")
