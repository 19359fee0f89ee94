"""One tokenizer interface over the Hugging Face `tokenizers` library: ids in and out, special tokens by role,
bytes.

Text is data: a document that happens to contain the letters `<|endoftext|>` or `[MASK]` is encoded as those
letters, never as the special token, unless the caller asks for it (`specials=True`). Nothing is added before
or after a text unless the caller asks for the tokenizer's own template (`template=True`: [CLS] ... [SEP] and
the like).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import ArrayLike, NDArray

from mainspring.errors import TokenizerError
from mainspring.text import loading
from mainspring.text.token_bytes import byte_lengths

ROLES = ("eos", "pad", "mask", "cls", "sep", "unk", "bos")
"""The parts that special tokens play."""

_USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "eos": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<end_of_turn>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>"),
}


class Tokenizer:
    """Text to vocabulary ids and back.

    Args:
        inner: a tokenizer of the `tokenizers` library; its truncation and padding are switched off.
        specials: token of each role ("eos", "pad", "mask", "cls", "sep", "unk", "bos") where the caller knows
            them; roles not named are found by their usual spellings, and padding falls back to the end of
            text.

    Raises:
        TokenizerError: a role is unknown, or its token is not in the vocabulary.
    """

    def __init__(self, inner: tokenizers.Tokenizer, specials: dict[str, str] | None = None) -> None:
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True
        self._inner = inner
        self._given = dict(specials or {})
        self._ids = self._find_specials()

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Load `tokenizer.json`, a directory that holds one, GPT-2's `vocab.json` + `merges.txt`, or
        `vocab.txt`.

        In a directory, `tokenizer_config.json` or `special_tokens_map.json` tells the roles of special
        tokens. Each file may be gzipped (`vocab.json.gz`).

        Raises:
            TokenizerError: nothing loadable is there, or it is damaged.
        """
        return cls(*loading.load(Path(path)))

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` at `path`, or inside it with the roles of special tokens where it is a
        directory."""
        target = Path(path)
        if target.is_dir() or target.suffix != ".json":
            target.mkdir(parents=True, exist_ok=True)
            roles = {f"{role}_token": token for role, token in sorted(self.specials.items())}
            (target / "special_tokens_map.json").write_text(
                json.dumps(roles, indent=2) + "\n", encoding="utf-8"
            )
            target = target / "tokenizer.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The `tokenizer.json` text; equal tokenizers give equal text."""
        return self._inner.to_str(pretty=True)

    def encode(self, text: str, *, template: bool = False, specials: bool = False) -> list[int]:
        """Ids of a text.

        Args:
            text: any string.
            template: add what the tokenizer's own template adds ([CLS], [SEP], ...).
            specials: read the letters of a special token as that token.
        """
        return self.encode_batch([text], template=template, specials=specials)[0]

    def encode_batch(
        self, texts: Sequence[str], *, template: bool = False, specials: bool = False
    ) -> list[list[int]]:
        """Ids of each text, on all cores; arguments as for `encode`.

        Raises:
            TokenizerError: a text holds a lone surrogate, which has no UTF-8 bytes.
        """
        inner = self._reading_specials if specials else self._inner
        try:
            encodings = inner.encode_batch_fast(list(texts), add_special_tokens=template)
        except TypeError:
            raise TokenizerError(self.blame(texts)) from None
        return [encoding.ids for encoding in encodings]

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text, and where each begins and ends in it, in characters.

        Raises:
            TokenizerError: the text holds a lone surrogate, which has no UTF-8 bytes.
        """
        try:
            encoding = self._inner.encode(text, add_special_tokens=False)
        except TypeError:
            raise TokenizerError(self.blame([text])) from None
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of ids; bytes that are not valid UTF-8 become U+FFFD."""
        return self._inner.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def token(self, index: int) -> str | None:
        """How the vocabulary spells an id, None outside the vocabulary."""
        return self._inner.id_to_token(index)

    def id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it, None if it has none."""
        return self._inner.token_to_id(token)

    def token_bytes(self, ids: ArrayLike) -> int:
        """Number of UTF-8 bytes of text that the ids stand for; special tokens stand for none.

        Exact for byte-level vocabularies. For SentencePiece-like and WordPiece vocabularies it is the length
        of the normalised text, a space before each word included.
        """
        return int(self.byte_table[np.asarray(ids, dtype=np.int64)].sum())

    @cached_property
    def byte_table(self) -> NDArray[np.int32]:
        """Bytes of text that each id stands for, [vocab_size]."""
        return byte_lengths(self.vocab, self.special_ids, json.loads(self._inner.to_str()))

    @cached_property
    def vocab(self) -> dict[str, int]:
        """Token spelling to id, added tokens included."""
        return self._inner.get_vocab(with_added_tokens=True)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the number of rows an embedding needs."""
        return max(self.vocab.values(), default=-1) + 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all that decides ids, in hexadecimal."""
        content = json.dumps(
            [json.loads(self._inner.to_str()), self.specials], sort_keys=True, ensure_ascii=False
        )
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        added = self._inner.get_added_tokens_decoder()
        flagged = {index for index, token in added.items() if token.special}
        return frozenset(flagged | {index for index in self._ids.values() if index is not None})

    @cached_property
    def starts_word(self) -> NDArray[np.bool_]:
        """True for ids that begin a word (a space before it, or WordPiece without ##), [vocab_size]."""
        starts = np.zeros(self.vocab_size, dtype=np.bool_)
        wordpiece = json.loads(self._inner.to_str())["model"]["type"] == "WordPiece"
        for token, index in self.vocab.items():
            starts[index] = (
                not token.startswith("##") if wordpiece else token.startswith(("Ġ", "▁", "Ċ", " "))
            )
        starts[list(self.special_ids)] = True
        return starts

    @property
    def cuts_at_space(self) -> bool:
        """Whether a text may be cut before any white space that follows a letter without changing its ids."""
        return loading.is_plain_byte_level(json.loads(self._inner.to_str()))

    @property
    def specials(self) -> dict[str, str]:
        """Token of each role that this tokenizer has."""
        named = {
            role: self._inner.id_to_token(index) for role, index in self._ids.items() if index is not None
        }
        return {role: token for role, token in named.items() if token is not None}

    @property
    def eos(self) -> int | None:
        """End of text."""
        return self._ids["eos"]

    @property
    def bos(self) -> int | None:
        """Start of text."""
        return self._ids["bos"]

    @property
    def pad(self) -> int | None:
        """Padding; the end of text where there is no token of its own."""
        return self._ids["pad"]

    @property
    def mask(self) -> int | None:
        """The token that stands for a hidden one."""
        return self._ids["mask"]

    @property
    def cls(self) -> int | None:
        """The token whose state stands for the sequence."""
        return self._ids["cls"]

    @property
    def sep(self) -> int | None:
        """Separator of segments."""
        return self._ids["sep"]

    @property
    def unk(self) -> int | None:
        """Stands for what the vocabulary cannot spell."""
        return self._ids["unk"]

    @property
    def separator(self) -> int | None:
        """What ends a document in a stream: end of text, else the segment separator."""
        return self.eos if self.eos is not None else self.sep

    @cached_property
    def _reading_specials(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self._inner.to_str())

    def _find_specials(self) -> dict[str, int | None]:
        for role, token in self._given.items():
            if role not in ROLES:
                raise TokenizerError(f"special token role {role!r} is unknown; roles: {', '.join(ROLES)}")
            if self._inner.token_to_id(token) is None:
                raise TokenizerError(f"{role} = {token!r} is not in the vocabulary")
        ids: dict[str, int | None] = {}
        for role in ROLES:
            names = (self._given[role],) if role in self._given else _USUAL_NAMES[role]
            found = (self._inner.token_to_id(name) for name in names)
            ids[role] = next((index for index in found if index is not None), None)
        if ids["pad"] is None:
            ids["pad"] = ids["eos"]
        return ids

    def blame(self, texts: Sequence[Any]) -> str:
        """What is wrong with texts that the library refused."""
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                return f"text {number} is a {type(text).__name__}, not a string"
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                return f"text {number}: character {error.start} is a lone surrogate, which has no UTF-8 bytes"
        return "the tokenizer refused the texts"
