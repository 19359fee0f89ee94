"""A worker of a linear training: it passes over the blocks it is told of.

The first is the training's own process. The others are forks of it, so that the examples are there without a
copy and they begin at once; all they do is arithmetic on arrays, and they take no lock that another thread of
the training may have held.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from mainspring.linear.block import Loops, Weights
from mainspring.linear.combiners import Projection, Tracker
from mainspring.linear.lines import Ints
from mainspring.linear.rows import SparseRows
from mainspring.linear.shared import Done, Task
from mainspring.linear.steps import Steps


class Worker:
    """A worker.

    Args:
        number: of the worker.
        rows: all examples.
        steps: how examples change weights.
        loops: what goes over them.
        arrays: `Workers.arrays`.
        tracker: of this worker's blocks.
    """

    def __init__(
        self,
        number: int,
        rows: SparseRows,
        steps: Steps,
        loops: Loops,
        arrays: Mapping[str, Any],
        tracker: Tracker,
    ) -> None:
        self.number, self.tracker = number, tracker
        self._rows, self._steps, self._loops, self._arrays = rows, steps, loops, arrays
        self._touched: Ints = np.empty(0, dtype=np.int32)

    def run(self, task: Task) -> Done:
        """Take what others changed, and pass over a block."""
        shared, local = self._arrays["weights"], self._arrays["local"][self.number]
        lines, loops = self._arrays["lines"], self._loops
        changed = self._arrays["changed"][: task.changed]
        if task.changed is None:
            local[:] = shared
        else:
            loops.copy(local, changed, shared)
        if self.tracker is not None:
            self.tracker.clear(self._touched)
        if isinstance(self.tracker, Projection):
            self.tracker.seed = task.seed
        weights = Weights(local, task.scale)
        order = self._arrays["order"][task.first : task.last]
        passed = loops.pass_over(self._rows, order, task.t, self._steps, weights, self.tracker)
        self._touched = passed.lines
        lines[self.number, : len(passed.lines)] = passed.lines
        return Done(len(passed.lines), weights.scale, passed.decay, passed.loss)


def serve(worker: Worker, told: Connection, others: Sequence[Connection]) -> None:
    """A fork: a task in, an answer out, until there is nobody to tell it.

    Args:
        worker: does it.
        told: where tasks come from and answers go to.
        others: the training's ends of pipes, which a fork has too: closed here, so that the training's own
            end is the last.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the training's to act on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in others:
        end.close()
    while True:
        try:
            task: Task = told.recv()
        except EOFError:
            return
        told.send(worker.run(task))
