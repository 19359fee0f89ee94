"""Tokens to text as they come: never half a character, never part of a stop string.

A byte-level token may hold part of a character, so its text is known only with the tokens after it; a decoder
may also treat the first token of a text differently from the rest. Both are met by decoding a short window
again that starts at an earlier, settled token, and taking what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mainspring.infer.stopping import find_stop, held_back

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CONTEXT = 6
"""Tokens before the new ones that are decoded with them: more than the bytes of a character."""
HELD = 64
"""U+FFFD at the end of the text that are held back at most: a decoder with byte fallback turns a whole run of
byte tokens into them while one character of the run is unfinished."""


class Decodes(Protocol):
    """What turns tokens into text; `text.tokenizer.Tokenizer` does."""

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of the tokens; bytes that are not UTF-8 become U+FFFD."""
        ...


class TextStream:
    """The text of one completion, token by token."""

    def __init__(self, decoder: Decodes, stops: Sequence[str] = (), context: Sequence[int] = ()) -> None:
        """`context`: tokens that precede (the prompt), whose text is not emitted."""
        self._decoder = decoder
        self._stops = tuple(stops)
        self._window = list(context[-CONTEXT:])
        self._settled = len(decoder.decode(self._window)) if self._window else 0
        self._pending = ""
        self._resolved = 0
        self.stopped = False
        """Whether a stop string has ended the text."""

    @property
    def resolved(self) -> int:
        """Characters whose tokens are complete, emitted or held back for a stop string."""
        return self._resolved

    def push(self, token: int) -> str:
        """Take a token; return the text that is now final (may be empty)."""
        assert not self.stopped, "the text has ended"
        self._window.append(token)
        text = self._decoder.decode(self._window)
        end = max(len(text.rstrip(REPLACEMENT)), len(text) - HELD, self._settled)
        fresh = text[self._settled : end]
        self._settled = end
        if len(text) == end and len(self._window) > 2 * CONTEXT:
            self._shorten(text)
        return self._release(fresh, final=False)

    def finish(self) -> str:
        """The text that was held back, now that no token follows."""
        if self.stopped:
            return ""
        fresh = self._decoder.decode(self._window)[self._settled :] if self._window else ""
        self._settled += len(fresh)
        return self._release(fresh, final=True)

    def _shorten(self, text: str) -> None:
        """Begin the window later, unless that would be inside a character."""
        tail = self._decoder.decode(self._window[-CONTEXT:])
        if tail and text.endswith(tail):
            self._window, self._settled = self._window[-CONTEXT:], len(tail)

    def _release(self, fresh: str, *, final: bool) -> str:
        self._resolved += len(fresh)
        self._pending += fresh
        place = find_stop(self._pending, self._stops) if fresh else None
        if place is not None:
            self.stopped = True
            self._resolved -= len(self._pending) - place
            out, self._pending = self._pending[:place], ""
            return out
        keep = 0 if final else held_back(self._pending, self._stops)
        out, self._pending = (
            self._pending[: len(self._pending) - keep],
            self._pending[len(self._pending) - keep :],
        )
        return out
