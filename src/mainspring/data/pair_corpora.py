"""Pairs of several directions in one folder: a folder of `PairData` for each, and what they share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mainspring.data.pairs import FACTS, PairData
from mainspring.errors import DataError

_INDEX = "directions.json"


@dataclass(frozen=True)
class PairCorpora:
    """Encoded pairs by direction."""

    directions: dict[str, PairData]
    """By name, such as `en-fr`, in order of their names."""
    languages: tuple[str, ...]
    """BCP 47 tags, in order of the language indices that the pairs carry; empty where nobody said."""

    @classmethod
    def of(cls, directions: Mapping[str, PairData], languages: Sequence[str] = ()) -> PairCorpora:
        """Join corpora.

        Raises:
            DataError: there is none, or they were encoded with different tokenizers.
        """
        if not directions:
            raise DataError("there are no pairs in any direction")
        if len({data.tokenizer_hash for data in directions.values()}) > 1:
            raise DataError(f"{', '.join(directions)}: encoded with different tokenizers; encode them again")
        return cls({name: directions[name] for name in sorted(directions)}, tuple(languages))

    @property
    def tokenizer_hash(self) -> str:
        """Of the tokenizer that all were encoded with."""
        return next(iter(self.directions.values())).tokenizer_hash

    def save(self, folder: str | Path) -> Path:
        """Write the pairs into a folder; the file that makes it complete comes last."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / _INDEX).unlink(missing_ok=True)
        for name, data in self.directions.items():
            data.save(path / name)
        index = {"directions": list(self.directions), "languages": self.languages}
        (path / _INDEX).write_text(json.dumps(index), encoding="utf-8")
        return path

    @classmethod
    def open(cls, folder: str | Path) -> PairCorpora:
        """Map the pairs of a folder: one that `save` wrote, or one of a single `PairData`.

        Raises:
            DataError: it is none, or incomplete.
        """
        path = Path(folder)
        if (path / FACTS).is_file():
            return cls.of({"all": PairData.open(path)})
        try:
            index = json.loads((path / _INDEX).read_text(encoding="utf-8"))
            names, languages = list(index["directions"]), tuple(index["languages"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: no encoded pairs: {error}; write them with mainspring data pairs"
            ) from error
        return cls.of({name: PairData.open(path / name) for name in names}, languages)
