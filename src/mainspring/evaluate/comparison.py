"""A model's score beside the baselines', with a verdict in words."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mainspring.data.dataset import TokenData
from mainspring.errors import DataError
from mainspring.evaluate.language_model import LMScore, Progress, baselines, evaluate
from mainspring.infer.engine import Engine


@dataclass(frozen=True)
class Comparison:
    """Scores of a model and of baselines on the same tokens of held-out text."""

    name: str
    """The model's."""
    model: LMScore
    baselines: dict[str, LMScore]
    """By name; may be empty."""
    seq_len: int
    """Tokens of context the model had at most. An n-gram's context is as long as its order, across rows."""
    seconds: float
    """The model's evaluation."""
    baseline_seconds: float
    """Counting and scoring of the baselines."""

    @property
    def verdict(self) -> str:
        """Who predicts better, and by how much."""
        return "; ".join(
            f"{self.model.bits_per_byte:.3f} bits per byte is {abs(1 - ratio):.1%} "
            f"{'better (lower)' if ratio < 1 else 'worse (higher)'} than {title(name)} "
            f"({score.bits_per_byte:.3f})"
            for name, score in self.baselines.items()
            for ratio in [self.model.bits_per_byte / score.bits_per_byte]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "model": self.model.as_dict(),
            "baselines": {name: score.as_dict() for name, score in self.baselines.items()},
            "seq_len": self.seq_len,
            "seconds": self.seconds,
            "baseline_seconds": self.baseline_seconds,
            "verdict": self.verdict,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """From what `as_dict` gave."""
        baselines = {name: LMScore(**score) for name, score in values["baselines"].items()}
        return cls(
            values["name"],
            LMScore(**values["model"]),
            baselines,
            values["seq_len"],
            values["seconds"],
            values["baseline_seconds"],
        )


def title(name: str) -> str:
    """A baseline's name as people write it.

    >>> title("kneser_ney_5"), title("unigram")
    ('Kneser-Ney 5-gram', 'unigram')
    """
    return f"Kneser-Ney {name.removeprefix('kneser_ney_')}-gram" if name.startswith("kneser_ney_") else name


def compare(
    engine: Engine,
    data: TokenData,
    *,
    seq_len: int,
    order: int = 5,
    max_tokens: int | None = None,
    with_baselines: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Score an engine's model and the baselines on the held-out text of a data set.

    Args:
        engine: its tokenizer must be the data's.
        data: baselines are counted on its training part.
        seq_len: tokens in a row.
        order: of the longest n-gram.
        max_tokens: score about so many tokens; None takes all.
        with_baselines: False leaves them out.
        progress: told the tokens scored so far.

    Raises:
        DataError: the tokenizers differ, a row is longer than the model's positions, or nothing is held out.
    """
    if engine.tokenizer.vocab != data.tokenizer.vocab:
        raise DataError(
            f"{data.directory} was built with another tokenizer ({data.tokenizer.vocab_size} entries) than "
            "the "
            f"model's ({engine.tokenizer.vocab_size} entries); build it again with --tokenizer of the model"
        )
    if engine.max_positions is not None and seq_len > engine.max_positions:
        raise DataError(
            f"seq_len = {seq_len}: the model has {engine.max_positions} positions; use "
            f"{engine.max_positions} or fewer"
        )
    begun = time.perf_counter()
    score = evaluate(engine.model, data, seq_len=seq_len, max_tokens=max_tokens, progress=progress)
    middle = time.perf_counter()
    others = baselines(data, seq_len=seq_len, order=order, max_tokens=max_tokens) if with_baselines else {}
    return Comparison(engine.name, score, others, seq_len, middle - begun, time.perf_counter() - middle)
