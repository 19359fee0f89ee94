"""The folder of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.config import Section, load_toml, to_toml
from mainspring.train.files import replace_file
from mainspring.train.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """Where a run keeps what it makes."""

    dir: Path

    @property
    def recipe(self) -> Path:
        """The recipe as it was run."""
        return self.dir / "recipe.toml"

    @property
    def plan(self) -> Path:
        """What the planner expected."""
        return self.dir / "plan.json"

    @property
    def metrics(self) -> Path:
        """Events, one JSON object a line."""
        return self.dir / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of the model."""
        return self.dir / "tokenizer.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.dir / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard files."""
        return self.dir / "tensorboard"

    @property
    def evaluation(self) -> Path:
        """Scores beside the baselines."""
        return self.dir / "evaluation.json"

    @property
    def samples(self) -> Path:
        """Completions."""
        return self.dir / "samples.json"

    @property
    def report(self) -> Path:
        """The report for a person."""
        return self.dir / "report.html"

    def write_recipe(self, recipe: Section) -> None:
        """Keep the recipe."""
        replace_file(self.recipe, to_toml(recipe).encode())

    def read_recipe(self) -> Recipe:
        """The recipe that was kept.

        Raises:
            ConfigError: there is none, or it does not fit.
        """
        return load_toml(Recipe, self.recipe)

    def write_json(self, path: Path, values: Any) -> None:
        """Keep plain values."""
        replace_file(path, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode())
