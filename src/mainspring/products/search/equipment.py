"""What an index is searched with: encoder, heads, ranker and answerer, loaded when first used."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from mainspring.config import parse
from mainspring.errors import MissingExtraError, UsageError
from mainspring.products.search import heads as trained
from mainspring.products.search.answers import Answerer, ReaderAnswerer
from mainspring.products.search.encoder import DEFAULT, Encoder, ModelEncoder
from mainspring.products.search.heads import Heads, RankerCurve
from mainspring.products.search.rank import BiEncoderRanker, Ranker
from mainspring.products.search.store import Store


@dataclass(frozen=True, slots=True)
class Models:
    """What reads a query and what was found."""

    encoder: Encoder | None
    """Turns text into vectors; None: words alone are compared."""
    ranker: Ranker
    """Orders the first 50."""
    answerer: Answerer | None
    """Answers questions; None: nothing does."""
    heads: Heads | None
    """Mark what answers a question; None: vectors and words mark."""
    missing: str | None
    """What semantic search lacks without an encoder, in words."""


class Equipment:
    """The models of one index: those given, else those that it was made with."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        *,
        encoder: Encoder | None,
        ranker: Ranker | None,
        answerer: Answerer | None,
        heads: Path | None,
        precision: str,
    ) -> None:
        """Nothing is loaded yet. Arguments as for `Index.open`."""
        self._folder, self._store = folder, store
        self.given_ranker, self.given_answerer, self._heads_folder = ranker, answerer, heads
        self._given, self._precision = encoder, precision
        self._encoder: Encoder | None = None
        self._heads: Heads | None = None
        self._missing: str | None = None
        self._looked = False
        self._loading = threading.Lock()

    @property
    def encoder(self) -> Encoder | None:
        """What turns text into vectors.

        Raises:
            UsageError: an encoder of another kind was given than the index was made with.
        """
        with self._loading:
            if not self._looked:
                self._encoder = self._load_encoder()
                self._heads = self._load_heads(self._encoder)
                self._looked = True
            return self._encoder

    @property
    def heads(self) -> Heads | None:
        """What was trained over the encoder.

        Raises:
            UsageError: heads were given that stand on another encoder.
        """
        return None if self.encoder is None else self._heads

    @property
    def curve(self) -> RankerCurve:
        """The ranker's curve: the one fitted to this index, else the heads', else one set by hand."""
        kept = self._store.meta("ranker")
        if kept is not None:
            return parse(RankerCurve, json.loads(kept), source=f"{self._folder}: ranker")
        heads = self.heads
        return RankerCurve() if heads is None else heads.settings.ranker

    def models(self) -> Models:
        """All of them, loaded."""
        encoder, heads = self.encoder, self.heads
        answerer = self.given_answerer or (None if heads is None else ReaderAnswerer(heads))
        ranker = self.given_ranker or BiEncoderRanker(**self.curve.model_dump())
        return Models(encoder, ranker, answerer, heads, self._missing if encoder is None else None)

    def by_words(self) -> Models:
        """What searches by words alone; nothing is loaded."""
        return Models(None, self.given_ranker or BiEncoderRanker(), self.given_answerer, None, None)

    def _load_encoder(self) -> Encoder | None:
        recorded = self._store.meta("encoder") or ""
        if self._given is not None:
            if recorded and self._given.name not in (recorded, Path(recorded).name):
                raise UsageError(
                    f"{self._folder}: has vectors of {recorded!r}, and {self._given.name!r} was given; "
                    "give the same encoder, or index anew with the other"
                )
            return self._given
        if not recorded:
            self._missing = "the index was made without an encoder: words alone are compared"
            return None
        try:
            return ModelEncoder.load(None if recorded == DEFAULT else recorded, precision=self._precision)
        except MissingExtraError as error:
            self._missing = f"words alone are compared: {error}"
            return None

    def _load_heads(self, encoder: Encoder | None) -> Heads | None:
        if not isinstance(encoder, ModelEncoder):
            if self._heads_folder is not None:
                raise UsageError(
                    f"{self._heads_folder}: heads stand on an encoder of this stack, and this index has "
                    f"{'none' if encoder is None else encoder.name!r}"
                )
            return None
        folder = self._heads_folder or trained.shipped(encoder.name)
        return None if folder is None else trained.load(folder, encoder)
