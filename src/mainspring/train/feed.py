"""What each rank reads: its rows of every step, as views of micro-batches.

Step s takes the global rows [s R, (s + 1) R); data rank r the r-th equal part of them. Rows and their chance
depend on the seed and the global index alone, so the same rows are read, and masked alike, whatever the
number of ranks.
"""

from __future__ import annotations

from mainspring.data.dataset import TokenData
from mainspring.data.loader import row_generators
from mainspring.data.training_rows import TrainingRows
from mainspring.errors import ConfigError
from mainspring.objectives import ComparesTexts, Objective, Views
from mainspring.objectives.config import reads_pairs
from mainspring.parallel import Plan
from mainspring.parallel.mesh import Axes
from mainspring.parallel.sequence import split_tokens
from mainspring.planner import Batch
from mainspring.train.recipe import Recipe


class Feed:
    """The training rows of one data rank.

    Args:
        recipe: says what is read and in which order.
        data: where it lies.
        objective: makes the views.
        batch: how the global batch is cut.
        axes: where this rank stands; of what its data rank reads it takes its sequence rank's tokens.
    """

    def __init__(
        self, recipe: Recipe, data: TokenData, objective: Objective, batch: Batch, axes: Axes
    ) -> None:
        self._seed = recipe.train.seed
        self._rows = rows_of_run(recipe, data)
        self._objective = objective
        self._batch = batch
        self._axes, self._plan = axes, recipe.plan

    def micro_batches(self, step: int) -> list[Views]:
        """This rank's share of step `step` (counted from 0), in micro-batches."""
        first = step * self._batch.rows + self._axes.index("data") * self._batch.rows_per_rank
        end = first + self._batch.rows_per_rank
        size = self._batch.micro_rows
        return [self._views(start, min(start + size, end)) for start in range(first, end, size)]

    def _views(self, start: int, stop: int) -> Views:
        objective, rows = self._objective, self._rows
        others = isinstance(objective, ComparesTexts) and objective.wants_elsewhere
        batch = rows.batch_with_others(start, stop) if others else rows.batch(start, stop)
        return own_tokens(
            objective.build(batch, row_generators(self._seed, start, stop)), self._axes, self._plan
        )


def own_tokens(views: Views, axes: Axes, plan: Plan) -> Views:
    """What of each view's rows is this sequence rank's."""
    index, size = axes.index("sequence"), axes.size("sequence")
    if size == 1:
        return views
    zigzag = plan.sequence_attention == "ring"
    return {name: split_tokens(view, index, size, zigzag=zigzag) for name, view in views.items()}


def rows_of_run(recipe: Recipe, data: TokenData) -> TrainingRows:
    """The rows that a run reads: of text, of pairs, or of both, as its objective wants.

    Raises:
        ConfigError: objective and data do not go together; says which field to change.
        DataError: what the run should read is not there.
    """
    kind, pairs, share = recipe.objective.kind, recipe.data.pairs, recipe.data.pairs_share
    if reads_pairs(recipe.objective) and pairs is None:
        raise ConfigError(
            f"objective.kind = {kind!r} reads pairs of texts: write them with mainspring data pairs, and "
            "name the directory with data.pairs"
        )
    if pairs is not None and not reads_pairs(recipe.objective):
        raise ConfigError(
            f"data.pairs = {pairs!r}: objective.kind = {kind!r} reads rows of text; leave data.pairs out, or "
            "use objective.kind = 'mixed'"
        )
    if kind == "mixed" and share == 1:
        raise ConfigError("data.pairs_share = 1.0 leaves no text for objective.kind = 'mixed'; try 0.5")
    if kind != "mixed" and share < 1:
        raise ConfigError(
            f"data.pairs_share = {share}: objective.kind = {kind!r} reads no text beside pairs; use "
            "objective.kind = 'mixed', or leave the share out"
        )
    return TrainingRows(data, recipe.data, recipe.train.seed)
