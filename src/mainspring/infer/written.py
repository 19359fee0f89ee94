"""What a model has learnt: its objective and languages, which go with it into exported folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pydantic import Field

from mainspring.config import Section, parse
from mainspring.data.pair_corpora import PairCorpora
from mainspring.errors import DataError, UsageError, suggest
from mainspring.infer.layout import GENERATING
from mainspring.nn.config import TransformerConfig
from mainspring.objectives.config import MixedConfig, ObjectiveConfig, Seq2SeqConfig, TranslateConfig
from mainspring.train.recipe import Recipe

FILE = "mainspring_objective.json"
"""Beside exported weights."""

_PUBLISHED: Mapping[str, ObjectiveConfig] = MappingProxyType(
    {"zcode": TranslateConfig(), "zcode_moe": TranslateConfig(), "unilm": Seq2SeqConfig()}
)
"""What models of others are taken to have learnt, by family: M2M-100's and s2s-ft's tasks."""


class Written(NamedTuple):
    """What a model has learnt, and in which languages."""

    objective: ObjectiveConfig
    """The objective; of a mixed one the part that writes."""
    directions: Mapping[str, tuple[int, int]] = MappingProxyType({})
    """Language indices of source and target by direction, where the model is told them."""

    @property
    def writes(self) -> bool:
        """Whether that is to write text."""
        return self.objective.kind in GENERATING

    def languages(self, direction: str | None) -> tuple[int, int]:
        """Language indices of a direction, which may be left out where there is one.

        Raises:
            UsageError: there is no such direction, or several and none is named.
        """
        known = ", ".join(self.directions)
        if direction is None:
            if len(set(self.directions.values())) > 1:
                raise UsageError(
                    f"the model writes in several directions: choose one of {known} (--direction)"
                )
            return next(iter(self.directions.values()), (0, 0))
        if direction not in self.directions:
            raise UsageError(
                f"direction {direction!r}: "
                + (suggest(direction, self.directions) if known else "the model is not told any language")
            )
        return self.directions[direction]


class _Kept(Section):
    """What the file holds."""

    objective: ObjectiveConfig
    directions: dict[str, tuple[int, int]] = Field(default_factory=dict)


def written_by(recipe: Recipe, config: TransformerConfig, run: Path) -> Written:
    """What a run's model learns.

    Args:
        recipe: the run.
        config: its model.
        run: its directory; one that was imported has what came with the model.

    Raises:
        UsageError: the model is told languages, and the run's pairs are not there to say which.
    """
    objective = recipe.objective
    if isinstance(objective, MixedConfig):
        objective = objective.pairs if objective.pairs.kind in GENERATING else objective.text
    told = config.languages > 0 or (isinstance(objective, TranslateConfig) and objective.language_tags)
    if not told or objective.kind not in GENERATING:
        return Written(objective)
    if recipe.data.pairs is None:
        came = kept(run)
        return Written(objective) if came is None else Written(objective, came.directions)
    try:
        corpora = PairCorpora.open(recipe.data.pairs).directions
    except DataError as error:
        raise UsageError(
            f"{run}: the model is told the languages of its texts, and the pairs that it was trained on "
            f"have to say which they are: {error}"
        ) from error
    return Written(objective, {direction: data.langs for direction, data in corpora.items()})


def keep(folder: Path, written: Written) -> None:
    """Write it into a folder with a model."""
    kept = _Kept(objective=written.objective, directions=dict(written.directions))
    (folder / FILE).write_text(json.dumps(kept.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def kept(folder: Path) -> Written | None:
    """What `keep` has written into a folder, if it has.

    Raises:
        UsageError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = parse(_Kept, json.loads(path.read_text(encoding="utf-8")), source=str(path))
    except ValueError as error:
        raise UsageError(f"{path}: {error}; export the model again, or remove the file") from error
    return Written(found.objective, found.directions)


def published(family: str) -> Written | None:
    """What others' models of a family are taken to have learnt to write."""
    return Written(_PUBLISHED[family]) if family in _PUBLISHED else None
