"""What each rank reads: its rows of every step, as views of micro-batches.

Step s takes the global rows [s R, (s + 1) R); rank r the r-th equal part of them. Rows and their chance
depend on the seed and the global index alone, so the same rows are read, and masked alike, whatever the
number of ranks.
"""

from __future__ import annotations

from mainspring.data.batch import TokenBatch
from mainspring.data.dataset import TokenData
from mainspring.data.loader import row_generators, rows
from mainspring.data.pairs import PairData
from mainspring.data.sampler import mixture_of
from mainspring.errors import DataError
from mainspring.objectives import Objective, Views
from mainspring.planner import Batch
from mainspring.train.recipe import Recipe


class Feed:
    """The training rows of one rank.

    Args:
        recipe: says what is read and in which order.
        data: where it lies.
        objective: makes the views.
        batch: how the global batch is cut.
        rank: of so many ranks as the batch was cut for.
    """

    def __init__(
        self, recipe: Recipe, data: TokenData, objective: Objective, batch: Batch, rank: int
    ) -> None:
        self._data = data
        self._seed = recipe.train.seed
        self._seq_len = recipe.data.seq_len
        self._mixture = mixture_of(data, recipe.data)
        self._pairs = None if recipe.data.pairs is None else open_pairs(recipe.data.pairs, data)
        self._per_row = recipe.data.pairs_per_row
        self._objective = objective
        self._batch = batch
        self._rank = rank

    def micro_batches(self, step: int) -> list[Views]:
        """This rank's share of step `step` (counted from 0), in micro-batches."""
        first = step * self._batch.rows + self._rank * self._batch.rows_per_rank
        end = first + self._batch.rows_per_rank
        size = self._batch.micro_rows
        return [self._views(start, min(start + size, end)) for start in range(first, end, size)]

    def _views(self, start: int, stop: int) -> Views:
        return self._objective.build(self._rows(start, stop), row_generators(self._seed, start, stop))

    def _rows(self, start: int, stop: int) -> TokenBatch:
        if self._pairs is not None:
            pad = self._data.tokenizer.pad or 0
            return self._pairs.rows(self._seed, start, stop, per_row=self._per_row, pad=pad)
        return rows(self._data, self._mixture, self._seed, self._seq_len, start, stop)


def open_pairs(folder: str, data: TokenData) -> PairData:
    """The pairs that a run reads.

    Raises:
        DataError: there are none, or they were encoded with another tokenizer than the run's data.
    """
    pairs = PairData.open(folder)
    if pairs.tokenizer_hash != data.tokenizer.hash:
        raise DataError(
            f"data.pairs = {folder!r} was encoded with another tokenizer than data.path = "
            f"{str(data.directory)!r}; encode the pairs with the tokenizer.json there"
        )
    return pairs
