"""Processes that pass over blocks at the same time, on memory that they share.

The training says which examples are whose, passes over the first block of a round itself, and merges when the
others have answered. A worker that dies ends the training with its number and exit code.
"""

from __future__ import annotations

import multiprocessing
import warnings
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Any, Self

import numpy as np

from mainspring.errors import RunFault
from mainspring.linear.block import Loops, Order, Weights
from mainspring.linear.combiners import Projection, Subset, Tracker, followed
from mainspring.linear.lines import line_count
from mainspring.linear.merge import Report, merge
from mainspring.linear.rows import SparseRows
from mainspring.linear.settings import LinearSettings
from mainspring.linear.shared import Done, Task, dealt, shared
from mainspring.linear.worker import Worker, serve


class Workers:
    """`settings.workers` processes, this one among them, over the same rows; a context that ends the others.

    Args:
        rows: examples.
        weights: where they begin.
        settings: of the training.
        loops: what goes over examples and weights.
    """

    def __init__(self, rows: SparseRows, weights: Weights, settings: LinearSettings, loops: Loops) -> None:
        self.settings, self.count, self._loops = settings, settings.workers, loops
        workers, total = self.count, rows.features
        self.arrays: dict[str, Any] = {
            "weights": shared([total], np.float32),
            "order": shared([len(rows)], np.int64),
            "lines": shared([workers, line_count(total)], np.int32),
            "changed": shared([line_count(total)], np.int32),
            "local": shared([workers, total], np.float32),
        }
        self.arrays["weights"][:] = weights.values
        self.weights = Weights(self.arrays["weights"], weights.scale)
        self._before = np.array(self.weights.values)
        trackers = _trackers(rows, settings, loops)
        self._workers = [
            Worker(number, rows, settings.steps, loops, self.arrays, tracker)
            for number, tracker in enumerate(trackers)
        ]
        self._costs = [1.0 if tracker is None else tracker.cost(rows) for tracker in trackers]
        self._changed: int | None = None
        self._pipes: dict[int, Connection] = {}
        self._processes: dict[int, ForkProcess] = {}
        try:
            for worker in self._workers[1:]:
                self._start(worker)
        except BaseException:
            self._end()
            raise

    def _start(self, worker: Worker) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes[worker.number], there = context.Pipe()
        ends = list(self._pipes.values())
        process = context.Process(target=serve, args=(worker, there, ends), daemon=True)
        with warnings.catch_warnings():
            # Python warns of locks that other threads hold; `worker` says why that does not matter here.
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
            process.start()
        self._processes[worker.number] = process
        there.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes.values():
            process.kill()  # it keeps nothing that is not here
        for process in self._processes.values():
            process.join()
        for pipe in self._pipes.values():
            pipe.close()

    def order(self, order: Order) -> None:
        """Take examples in this order from now on."""
        self.arrays["order"][:] = order

    def round(self, first: int, last: int, t: int, seed: int) -> float:
        """Pass over examples first to last of the order, a share each, and merge: the sum of their losses."""
        edges = dealt(first, last, self._costs)
        tasks = [
            Task(start, end, t + start - first, self.weights.scale, self._changed, seed + number)
            for number, (start, end) in enumerate(pairwise(edges))
        ]
        for number in self._processes:
            self._send(number, tasks[number])
        results = [self._workers[0].run(tasks[0]), *(self._receive(number) for number in self._processes)]
        reports = []
        for worker, task, done in zip(self._workers, tasks, results, strict=True):
            if isinstance(worker.tracker, Projection):
                worker.tracker.seed = task.seed
            lines = self.arrays["lines"][worker.number, : done.lines]
            ends = self.arrays["local"][worker.number]
            reports.append(Report(lines, ends, done.scale, done.decay, worker.tracker))
        changed = merge(self.weights, self._before, reports, self.settings, self._loops)
        self._changed = len(changed)
        self.arrays["changed"][: len(changed)] = changed
        if self.weights.settle():
            self._before[:] = self.weights.values
            self._changed = None
        return sum(done.loss for done in results)

    def _send(self, number: int, task: Task) -> None:
        try:
            self._pipes[number].send(task)
        except BrokenPipeError:
            raise self._lost(number) from None

    def _receive(self, number: int) -> Done:
        pipe = self._pipes[number]
        wait([pipe, self._processes[number].sentinel])
        try:
            if pipe.poll():
                done: Done = pipe.recv()
                return done
        except (EOFError, ConnectionResetError):
            pass  # told below, with its exit code
        raise self._lost(number)

    def _lost(self, number: int) -> RunFault:
        self._processes[number].join()
        code = self._processes[number].exitcode
        return RunFault(
            f"worker {number} of {self.count} ended with exit code {code} in the middle of a block; what was "
            "saved before this training is as it was: train again from there"
        )


def _trackers(rows: SparseRows, settings: LinearSettings, loops: Loops) -> list[Tracker]:
    """Of each worker's blocks; what they write is shared. The first worker's begin where the round does."""
    others = settings.workers - 1
    if settings.combiner == "projected":
        shape = [rows.features, settings.rank]
        return [None, *(Projection(shared(shape, np.float32), seed=0) for _ in range(others))]
    features = followed(settings, lambda: loops.counts(rows))
    if not len(features):
        return [None for _ in range(settings.workers)]
    shape = [len(features)] * 2
    found = [Subset.of(features, rows.features, change=shared(shape, np.float32)) for _ in range(others)]
    loops.prepare(found[0], rows)
    for tracker in found[1:]:
        tracker.chosen = found[0].chosen
    return [None, *found]
