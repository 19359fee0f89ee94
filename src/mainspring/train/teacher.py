"""Objectives that need a trained model beside their settings: where their teacher is read from."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from mainspring.errors import DataError
from mainspring.nn.config import TransformerConfig
from mainspring.objectives import (
    Distill,
    DistillConfig,
    MixtureOfStudents,
    Objective,
    ObjectiveConfig,
    StudentConfig,
    Vocabulary,
    build,
)
from mainspring.text.tokenizer import Tokenizer
from mainspring.train.source import Weights, read_weights

FIELD = "objective.teacher"
"""The recipe's field, for messages."""


class SavedTeacher:
    """The model of a run, a checkpoint or an exported model's folder.

    Args:
        path: where it is.
        tokenizer_hash: of the tokenizer that the student reads with (None: not known).
    """

    def __init__(self, path: str, tokenizer_hash: str | None) -> None:
        self.path = path
        self._tokenizer_hash = tokenizer_hash

    @cached_property
    def config(self) -> TransformerConfig:
        """Its configuration, without dropout.

        Raises:
            UsageError: no model is there.
            DataError: it has another tokenizer than the student.
        """
        found = self._weights()
        known = None not in (self._tokenizer_hash, found.tokenizer_hash)
        if known and found.tokenizer_hash != self._tokenizer_hash:
            raise DataError(
                f"objective.teacher = {self.path!r} has another tokenizer than the data, and both networks "
                "have to read the same tokens; build the data with --tokenizer and the tokenizer.json there"
            )
        return found.config.replace(dropout=0.0, attention_dropout=0.0)

    def read(self) -> dict[str, Tensor]:
        """Its weights."""
        return self._weights().state

    def _weights(self) -> Weights:
        with torch.device("cpu"):  # networks are made on meta, and a teacher's values are read then too
            return read_weights(self.path, FIELD)


def objective_of(
    config: ObjectiveConfig, vocabulary: Vocabulary, tokenizer: Tokenizer | None = None
) -> Objective:
    """The objective of a recipe, with the teacher that it names, if it names one.

    Args:
        config: its settings.
        vocabulary: of the tokenizer.
        tokenizer: the data's, which a teacher's has to equal (None: not known yet).

    Raises:
        ConfigError: the tokenizer lacks what the objective needs.
    """
    hashed = None if tokenizer is None else tokenizer.hash
    if isinstance(config, DistillConfig):
        return Distill(config, vocabulary, SavedTeacher(config.teacher, hashed))
    if isinstance(config, StudentConfig):
        text = build(config.text, vocabulary)
        return MixtureOfStudents(config, text, SavedTeacher(config.teacher, hashed))
    return build(config, vocabulary)
