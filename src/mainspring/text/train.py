"""Training a tokenizer on a stream of texts.

Byte-level BPE: Sennrich et al. 2016 (arXiv 1508.07909) over the bytes of UTF-8 as in GPT-2 (Radford et al.
2019); it can spell every text. Unigram: Kudo 2018 (arXiv 1804.10959) with SentencePiece's white-space mark
and bytes as the fallback for letters outside the vocabulary. WordPiece: Schuster and Nakajima 2012, with
BERT's normalisation.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import tokenizers
from pydantic import Field, model_validator
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from mainspring.config import Section
from mainspring.errors import TokenizerError
from mainspring.text.loading import bert_template
from mainspring.text.tokenizer import Tokenizer

Kind = Literal["bpe", "unigram", "wordpiece"]

SPECIALS: dict[Kind, tuple[str, ...]] = {
    "bpe": ("<|endoftext|>",),
    "unigram": ("<pad>", "</s>", "<unk>"),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
}
"""Special tokens of each kind; they take the first ids in this order."""

_COVERAGE = 0.9995

PIECE = 1 << 16
"""Characters of a long text that the trainers see at a time."""


class TokenizerSpec(Section):
    """A tokenizer to train."""

    kind: Kind = "bpe"
    """Byte-level BPE, Unigram or WordPiece."""
    vocab_size: int = Field(8192, ge=16)
    """Entries, special tokens included."""
    extra_special: tuple[str, ...] = ()
    """More special tokens, after those of the kind."""
    min_frequency: int = Field(2, ge=1)
    """Pairs seen less often are not merged (BPE and WordPiece)."""
    lowercase: bool = True
    """WordPiece: fold case and strip accents as BERT's uncased models do."""
    sample_bytes: int = Field(16 << 20, ge=1 << 10)
    """Text to train on, at most; taken evenly over documents by the hash of their content."""

    @model_validator(mode="after")
    def _check(self) -> TokenizerSpec:
        least = len(SPECIALS[self.kind]) + len(self.extra_special) + (0 if self.kind == "wordpiece" else 256)
        if self.vocab_size < least:
            raise ValueError(
                f"vocab_size = {self.vocab_size} is too small: {self.kind} needs {least} for special tokens "
                "and bytes"
            )
        return self


def train_tokenizer(
    texts: Iterable[str],
    kind: Kind = "bpe",
    vocab_size: int = 8192,
    *,
    extra_special: Iterable[str] = (),
    min_frequency: int = 2,
    lowercase: bool = True,
) -> Tokenizer:
    """Train a tokenizer.

    Args:
        texts: documents; read once.
        kind: "bpe" (byte-level), "unigram" or "wordpiece".
        vocab_size: entries, special tokens included; fewer come out where the texts are too small for it.
        extra_special: special tokens after those of the kind (`SPECIALS`).
        min_frequency: pairs seen less often are not merged (BPE and WordPiece).
        lowercase: WordPiece folds case and strips accents.

    Raises:
        ConfigError: the vocabulary is smaller than special tokens and bytes.
        TokenizerError: there is no text, or the library cannot train on it.
    """
    extra = tuple(extra_special)
    spec = TokenizerSpec().replace(
        kind=kind,
        vocab_size=vocab_size,
        extra_special=extra,
        min_frequency=min_frequency,
        lowercase=lowercase,
    )
    return train(texts, spec)


def train(texts: Iterable[str], spec: TokenizerSpec) -> Tokenizer:
    """Train the tokenizer that `spec` describes on `texts`; errors as for `train_tokenizer`."""
    stream = _Counted(_pieces(texts))
    specials = [*SPECIALS[spec.kind], *(t for t in spec.extra_special if t not in SPECIALS[spec.kind])]
    trainer = {"bpe": _bpe, "unigram": _unigram, "wordpiece": _wordpiece}[spec.kind]
    try:
        inner = trainer(stream, spec, specials)
    except Exception as error:  # the library raises bare Exception
        if stream.count == 0:
            raise TokenizerError("no text to train a tokenizer on") from error
        raise TokenizerError(
            f"a {spec.kind} tokenizer of {spec.vocab_size} entries cannot be trained: {error}"
        ) from error
    if stream.count == 0:
        raise TokenizerError("no text to train a tokenizer on")
    return Tokenizer(inner)


class _Counted:
    """An iterator that remembers how many texts it gave."""

    def __init__(self, texts: Iterator[str]) -> None:
        self.texts = texts
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            self.count += 1
            yield text


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), PIECE):
            yield text[start : start + PIECE]


def _bpe(texts: Iterable[str], spec: TokenizerSpec, specials: list[str]) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=spec.vocab_size,
            special_tokens=[_special(t) for t in specials],
            min_frequency=spec.min_frequency,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return inner


def _wordpiece(texts: Iterable[str], spec: TokenizerSpec, specials: list[str]) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=spec.lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=spec.vocab_size,
            special_tokens=[_special(t) for t in specials],
            min_frequency=spec.min_frequency,
            limit_alphabet=min(1000, spec.vocab_size // 2),
            show_progress=False,
        ),
    )
    vocab = inner.get_vocab()
    inner.post_processor = bert_template(vocab["[CLS]"], vocab["[SEP]"])
    return inner


def _unigram(texts: Iterable[str], spec: TokenizerSpec, specials: list[str]) -> tokenizers.Tokenizer:
    room = spec.vocab_size - 256
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.train_from_iterator(
        _without_rare_letters(texts, at_most=(room - len(specials)) // 2),
        trainers.UnigramTrainer(
            vocab_size=room,
            special_tokens=[_special(t) for t in specials],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    definition = json.loads(inner.to_str())
    _add_byte_fallback(definition["model"], after=len(specials))
    inner = tokenizers.Tokenizer.from_str(json.dumps(definition))
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return inner


def _without_rare_letters(texts: Iterable[str], at_most: int) -> Iterator[str]:
    """Texts in which letters that the vocabulary has no room for are spaces; bytes will spell them.

    Letters beyond a coverage of 99.95 % are rare, as in SentencePiece (Kudo and Richardson 2018, 3.1).
    """
    held = [unicodedata.normalize("NFKC", text) for text in texts]
    counts: Counter[str] = Counter()
    for text in held:
        counts.update(text)
    room, covered, total = max(1, at_most), 0, counts.total()
    rare: dict[int, str] = {}
    for place, (letter, count) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))):
        if place >= room or covered > _COVERAGE * total:
            rare[ord(letter)] = " "
        covered += count
    return (text.translate(rare) for text in held)


def _add_byte_fallback(model: dict[str, Any], after: int) -> None:
    """Give a Unigram model the 256 byte tokens, so that no letter is unknown to it."""
    lowest = min(score for _, score in model["vocab"])
    model["vocab"][after:after] = [[f"<0x{byte:02X}>", lowest - 10.0] for byte in range(256)]
    model["byte_fallback"] = True


def _special(token: str) -> AddedToken:
    return AddedToken(token, normalized=False, special=True)
