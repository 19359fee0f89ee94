"""A trained linear model: predict, score, save, load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mainspring.config import parse
from mainspring.errors import WeightsError
from mainspring.linear.losses import LOSSES
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings


@dataclass(frozen=True)
class Score:
    """How good a model is on some examples; `accuracy` and `auc` only where it classifies."""

    loss: float
    accuracy: float | None
    auc: float | None


@dataclass(frozen=True)
class LinearModel:
    """w, with what it was trained with.

    Attributes:
        weights: [features] float32.
        settings: of the training.
        examples: seen so far; the step size goes on from here.
        epochs: seen so far.
        classes: the data's own names of -1 and +1; empty for least squares.
        reader: how the data was read, to read more of it alike.
    """

    weights: npt.NDArray[np.float32]
    settings: LinearSettings
    examples: int = 0
    epochs: int = 0
    classes: tuple[str, ...] = ()
    reader: dict[str, str | int | bool | None] = field(default_factory=dict)

    def decide(self, rows: SparseRows) -> npt.NDArray[np.float64]:
        """Margins w.x: [n]."""
        return rows.margins(self.weights)

    def predict(self, rows: SparseRows) -> Sequence[str | float]:
        """Class names, or numbers where the loss is least squares."""
        margins = self.decide(rows)
        if not self.classes:
            return [float(m) for m in margins]
        return [self.classes[int(m > 0)] for m in margins]

    def score(self, rows: SparseRows) -> Score:
        """Mean loss, accuracy, and area under the ROC curve (ties count half; Fawcett 2006)."""
        margins = self.decide(rows)
        loss = LOSSES[self.settings.loss]
        mean = float(np.mean([loss.value(m, y) for m, y in zip(margins.tolist(), rows.targets, strict=True)]))
        if not loss.classifies:
            return Score(mean, None, None)
        truth = rows.targets > 0
        return Score(mean, float(((margins > 0) == truth).mean()), _auc(margins, truth))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; it appears when it is whole."""
        from safetensors.numpy import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "format": "mainspring-linear",
            "settings": self.settings.model_dump_json(),
            "seen": json.dumps([self.examples, self.epochs]),
            "classes": json.dumps(self.classes),
            "reader": json.dumps(self.reader),
        }
        partial = path.with_name(path.name + ".partial")
        save_file({"weights": self.weights}, partial, metadata=facts)
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> LinearModel:
        """Read what `save` wrote.

        Raises:
            WeightsError: it is missing, damaged, or another kind of file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                facts = file.metadata() or {}
                if facts.get("format") != "mainspring-linear":
                    raise WeightsError(f"{path}: a safetensors file, but not of a linear model")
                weights = file.get_tensor("weights")
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path}: cannot be read as a linear model ({error})") from error
        examples, epochs = json.loads(facts["seen"])
        settings = parse(LinearSettings, json.loads(facts["settings"]), source=str(path))
        classes = tuple(json.loads(facts["classes"]))
        return cls(weights, settings, examples, epochs, classes, json.loads(facts["reader"]))


def _auc(margins: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float | None:
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(margins, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))
