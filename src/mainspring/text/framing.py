"""Framing: texts and pairs as an encoder reads them, in the tokenizer's own template, cut to fit.

A text that is too long is cut, or laid out as several windows that overlap. Every token keeps the place of
its characters, so that what a model finds can be said in the user's own text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import tokenizers
from tokenizers import processors

from mainspring.errors import TokenizerError
from mainspring.text.tokenizer import Tokenizer

Strategy = Literal["longest_first", "only_second"]


class Frame(NamedTuple):
    """A text, a pair, or a window of one, with what the template adds. T tokens."""

    ids: list[int]
    types: list[int]
    """Segment of each token."""
    parts: list[int | None]
    """0: of the text or a pair's first; 1: of a pair's second; None: added by the template."""
    offsets: list[tuple[int, int]]
    """First character of each token in its text (in its word, where words were given), and the one after its
    last."""
    words: list[int | None]
    """Word of each token: as the tokenizer splits its text, or as it was given; None: added."""
    text: int
    """Which of the texts it is of."""
    cut: bool
    """Whether tokens of the text are not in it."""


class Framer:
    """Frames texts for one model.

    Args:
        tokenizer: its template is used; one without a template gets the usual one of the special tokens it
            has ([CLS] A [SEP] B [SEP]).
        max_tokens: tokens of a frame at most (None: no limit).
        stride: tokens that two windows of one text have in common.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int | None, stride: int = 0) -> None:
        self._tokenizer, self._max, self._stride = tokenizer, max_tokens, stride
        self._inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
        self._inner.encode_special_tokens = True
        if not self._inner.num_special_tokens_to_add(False):
            template = _usual_template(tokenizer)
            if template is not None:
                self._inner.post_processor = template

    def frame(self, texts: Sequence[str], *, windows: bool = False) -> list[Frame]:
        """Frame texts; `windows`: as many frames as a text needs, in order, else one each.

        Raises:
            TokenizerError: a text is not a string, or holds a lone surrogate.
        """
        return self._frames(list(texts), "longest_first", windows)

    def around(self) -> tuple[list[int], list[int]]:
        """Tokens that a text has before it, and those after it."""
        (frame,) = self._frames(["a"], "longest_first", windows=False)
        own = [at for at, part in enumerate(frame.parts) if part is not None]
        return frame.ids[: own[0]], frame.ids[own[-1] + 1 :]

    def frame_words(self, texts: Sequence[Sequence[str]], *, windows: bool = False) -> list[Frame]:
        """Frame texts that are split into words already.

        Raises:
            TokenizerError: as `frame`.
        """
        return self._frames([list(words) for words in texts], "longest_first", windows, words=True)

    def frame_pairs(self, pairs: Sequence[tuple[str, str]], *, windows: bool = False) -> list[Frame]:
        """Frame pairs; `windows`: of their second texts, each beside the whole first.

        Raises:
            TokenizerError: as `frame`; or a first text leaves no room for the second.
        """
        strategy: Strategy = "only_second" if windows else "longest_first"
        return self._frames([tuple(pair) for pair in pairs], strategy, windows)

    def _frames(
        self, inputs: Sequence[Any], strategy: Strategy, windows: bool, *, words: bool = False
    ) -> list[Frame]:
        if self._max is not None:
            self._inner.enable_truncation(self._max, stride=self._stride if windows else 0, strategy=strategy)
        try:
            encodings = self._inner.encode_batch(inputs, is_pretokenized=words)
        except TypeError:
            texts = [text for one in inputs for text in ((one,) if isinstance(one, str) else one)]
            raise TokenizerError(self._tokenizer.blame(texts)) from None
        except Exception as error:  # the library raises bare Exception where a first text fills the frame
            raise TokenizerError(
                f"a first text leaves no room for the second within {self._max} tokens, with {self._stride} "
                f"in common to two windows ({error}); shorten it"
            ) from error
        return [
            Frame(e.ids, e.type_ids, e.sequence_ids, e.offsets, e.word_ids, number, bool(whole.overflowing))
            for number, whole in enumerate(encodings)
            for e in ([whole, *whole.overflowing] if windows else [whole])
        ]


def _usual_template(tokenizer: Tokenizer) -> processors.PostProcessor | None:
    """[CLS] A [SEP] B [SEP] of the special tokens that there are."""
    specials = tokenizer.specials
    first = specials.get("cls") or specials.get("bos")
    last = specials.get("sep") or specials.get("eos")
    used = [token for token in (first, last) if token is not None]
    if last is None:
        return None
    begin = "" if first is None else f"{first} "
    numbers = [
        (token, number) for token in dict.fromkeys(used) if (number := tokenizer.id(token)) is not None
    ]
    return processors.TemplateProcessing(
        single=f"{begin}$A {last}", pair=f"{begin}$A {last} $B:1 {last}:1", special_tokens=numbers
    )
