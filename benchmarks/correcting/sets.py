"""What spellers are measured on: the reporting halves of real misspellings, and noise on held-out text."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mainspring.products.spelling.languages import Language
from mainspring.products.spelling.letters import normal_word
from mainspring.products.spelling.noise import misspell
from mainspring.products.spelling.tokens import tokenize
from mainspring.products.spelling.training.pairs import Pair, half, read_pairs
from mainspring.products.spelling.training.texts import of_half

DATA = Path("/work/shared/data")


class Errors(NamedTuple):
    """Misspellings with all that may have been meant."""

    wrong: list[str]
    right: list[set[str]]

    def first(self, most: int) -> Errors:
        """A fair sample: some of them in a fixed random order."""
        order = random.Random(7).sample(range(len(self.wrong)), min(most, len(self.wrong)))
        return Errors([self.wrong[i] for i in order], [self.right[i] for i in order])


def real(number: int) -> dict[tuple[str, str], Errors]:
    """One half of every set of real misspellings, by language and name; codespell teaches and is no test."""
    return {
        (tag, name): errors_of([p for p in pairs if half(p.right) == number])
        for (tag, name), pairs in read_pairs(DATA / "spelling").items()
        if name != "codespell"
    }


def errors_of(pairs: Sequence[Pair]) -> Errors:
    """Each misspelling once, of one word each."""
    meant: dict[str, set[str]] = {}
    for pair in pairs:
        if " " not in pair.wrong:
            meant.setdefault(pair.wrong, set()).add(pair.right)
    return Errors(list(meant), list(meant.values()))


class InContext(NamedTuple):
    """Running text with tagged errors."""

    text: str
    errors: dict[int, tuple[str, str]]
    """By place: what stands there, and what was meant."""


def holbrook(number: int) -> list[InContext]:
    """Passages of Holbrook's pupils whose place among them is of one parity, with their tagged errors."""
    raw = gzip.decompress((DATA / "spelling/en/mitton/holbrook-tagged.dat.gz").read_bytes()).decode("latin-1")
    made = []
    for passage in re.split(r"\n\d+\.\n", raw)[number::2]:
        parts: list[str] = []
        errors: dict[int, tuple[str, str]] = {}
        at = length = 0
        for tag in re.finditer(r"<ERR targ=([^>]*)>\s*(.*?)\s*</ERR>", passage, re.DOTALL):
            before = passage[at : tag.start()]
            length += len(before)
            errors[length] = (tag[2], tag[1].strip())
            parts += [before, tag[2]]
            length += len(tag[2])
            at = tag.end()
        made.append(InContext("".join([*parts, passage[at:]]), errors))
    return made


def bea(number: int) -> list[InContext]:
    """Sentences of learners (BEA-60K) of one half, by a hash of what was meant; blanks part their words."""
    folder = DATA / "spelling/en/bea60k"
    written, meant = (
        gzip.decompress((folder / f"{name}.txt.gz").read_bytes()).decode("utf-8").splitlines()
        for name in ("sources", "corrections")
    )
    made = []
    for wrong, right in zip(written, meant, strict=True):
        words, wanted = wrong.split(), right.split()
        if half(right) != number or len(words) != len(wanted):
            continue
        errors: dict[int, tuple[str, str]] = {}
        at = 0
        for word, target in zip(words, wanted, strict=True):
            if word != target:
                errors[at] = (word, target)
            at += len(word) + 1
        made.append(InContext(" ".join(words), errors))
    return made


class Noisy(NamedTuple):
    """Sentences of the reporting half, and the same with some words misspelt."""

    clean: list[str]
    noisy: list[str]
    errors: Errors
    """The misspelt words alone."""


def noisy(language: Language, sentences: int, rate: float = 0.2, number: int = 1) -> Noisy:
    """Held-out sentences of a language with noise on a share of their words of three letters or more."""
    held = of_half(language, DATA, number)
    chosen = random.Random(11).sample(held, min(sentences, len(held)))
    rng = np.random.default_rng(5)
    spoilt: list[str] = []
    pairs: list[Pair] = []
    for sentence in chosen:
        parts: list[str] = []
        at = 0
        for token in tokenize(sentence, nouns_capitalised=True):
            if (
                token.kind != "word"
                or len(token.text) < 3
                or (not token.text.islower() and token.text.lower() != token.text.upper())
            ):
                continue
            if rng.random() < rate:
                wrong = misspell(token.text, language, rng)
                if normal_word(wrong) != normal_word(token.text):
                    pairs.append(Pair(normal_word(wrong), normal_word(token.text)))
                    parts += [sentence[at : token.start], wrong]
                    at = token.stop
        spoilt.append("".join([*parts, sentence[at:]]))
    return Noisy(chosen, spoilt, errors_of(pairs))
