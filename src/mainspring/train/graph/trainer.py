"""A run that trains an ONNX graph: told in events, resumable at any moment, the graph written at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from mainspring import optim, parallel
from mainspring.errors import ConfigError, NonFiniteError
from mainspring.models.onnx import OnnxGraph, OnnxModule, read_onnx, write_onnx
from mainspring.nn.init import stable_seed
from mainspring.parallel import World
from mainspring.train import checkpoint, events, nonfinite
from mainspring.train.checkpoint import Manifest
from mainspring.train.graph.data import GraphBatch, GraphRows, open_rows
from mainspring.train.graph.losses import check_output, output_of
from mainspring.train.graph.recipe import GraphRecipe, TokenRows, identity
from mainspring.train.graph.step import GraphStep
from mainspring.train.journal import Journal, libraries
from mainspring.train.memory import peak_memory
from mainspring.train.process import age
from mainspring.train.resume import newest, refuse_other
from mainspring.train.run import Run
from mainspring.train.signals import StopRequest
from mainspring.train.sinks import JsonLines
from mainspring.train.step import Outcome
from mainspring.train.trainer import Result

TRAINED = "model.onnx"
"""The graph with its new weights, in a run's folder."""


@dataclass(frozen=True)
class _Setup:
    graph: OnnxGraph
    model: OnnxModule
    optimizer: Optimizer
    rows: GraphRows
    step: GraphStep


class GraphTrainer:
    """Carries out a recipe that trains a graph; every rank makes one and calls `fit`.

    Args:
        recipe: the run.
        run_dir: where it keeps what it makes, on a file system that all ranks see. A run found there goes on.
        world: the ranks.
        sinks: are told every event, on rank 0, beside the run's own files.
    """

    def __init__(
        self, recipe: GraphRecipe, run_dir: str | Path, world: World, sinks: Sequence[events.Sink] = ()
    ) -> None:
        self.recipe = recipe
        self.run = Run(Path(run_dir))
        self.world = world
        self._tell = Journal(sinks, main=world.is_main)
        self._step = 0
        self._loss: float | None = None

    @property
    def trained(self) -> Path:
        """The graph with its new weights, once the run has ended."""
        return self.run.dir / TRAINED

    def fit(self) -> Result:
        """Train until the last step or a signal, from the newest complete checkpoint of the run's folder, and
        write the graph.

        Raises:
            UsageError: the recipe cannot be carried out, or the folder holds another run.
            NonFiniteError: a loss or gradient is not finite.
            CheckpointError: the last checkpoint could not be written.
        """
        began = time.perf_counter()
        with StopRequest() as stop:
            if self.world.is_main:
                self.run.checkpoints.mkdir(parents=True, exist_ok=True)
            self.world.barrier()
            saver = checkpoint.Saver(self.run.checkpoints, self.recipe.train.keep)
            try:
                setup = self._prepare()
                before = newest(self.run.checkpoints)
                if before is not None:
                    self._resume(before, setup, saver)
                self._begin(setup, resumed=before is not None)
                interrupted = self._loop(setup, saver, stop)
                self._tell.finish_saving(saver)
                state = parallel.full_state(setup.model)
                if self.world.is_main:
                    write_onnx(self.recipe.graph.path, setup.graph, self.trained, state)
            except BaseException as error:
                if not isinstance(error, KeyboardInterrupt):  # who asks twice wants no waiting
                    with suppress(BaseException):  # the error at hand is the one to tell
                        saver.wait(timeout=10)
                self._end("failed", began, f"{type(error).__name__}: {error}")
                raise
            status: events.Status = "interrupted" if interrupted else "finished"
            self._end(status, began, "")
        return Result(status, self._step, self._loss, checkpoint.latest(self.run.checkpoints), stop.received)

    def _prepare(self) -> _Setup:
        recipe = self.recipe
        torch.manual_seed(stable_seed(recipe.train.seed, "graph"))
        wanted = None if recipe.loss.output is None else [recipe.loss.output]
        graph = read_onnx(
            recipe.graph.path, outputs=wanted, freeze=recipe.graph.freeze, blocks=recipe.graph.blocks
        )
        check_output(recipe.loss, graph.module)
        if not graph.places:
            raise ConfigError(f"{recipe.graph.path} has no floating-point weights to train")
        rows = open_rows(recipe.data, graph.module.inputs, recipe.train.seed)
        model = graph.module.to(self.world.device)
        parallel.apply(model, recipe.plan, precision=recipe.train.precision, reduce="sum")
        optimizer = optim.build(
            model, recipe.optim, join=parallel.piece_sum(model), replicas=parallel.replicas(model)
        )
        step = GraphStep(
            model, recipe.loss, output_of(recipe.loss, model.outputs), recipe.optim.clip, self.world.device
        )
        return _Setup(graph, model, optimizer, rows, step)

    def _resume(self, path: Path, setup: _Setup, saver: checkpoint.Saver) -> None:
        refuse_other(path, Manifest.read(path).run.get("identity", {}), identity(self.recipe))
        self._step = checkpoint.load(path, setup.model, setup.optimizer, group=saver.group).step

    def _begin(self, setup: _Setup, resumed: bool) -> None:
        train = self.recipe.train
        if self.world.is_main:
            self.run.write_recipe(self.recipe)
            self._tell.keep(JsonLines(self.run.metrics, self._step))
        weights = sum(source.tensor.numel() for source in setup.graph.places.values())
        self._tell(
            events.RunStarted(
                self._step,
                name=self.recipe.name,
                steps=train.steps,
                resumed=resumed,
                world=self.world.size,
                device=str(self.world.device),
                precision=train.precision,
                parameters=weights,
                rows=train.batch_rows,
                tokens=self._tokens(train.batch_rows),
                micro_rows=self.recipe.micro_rows,
                accumulation=self.recipe.rows_per_rank // self.recipe.micro_rows,
                flops_per_token=0.0,
                peak_flops=0.0,
                unit="tokens" if isinstance(self.recipe.data, TokenRows) else "rows",
            )
        )
        if setup.graph.constant:
            names = ", ".join(setup.graph.constant[:4])
            more = f" and {len(setup.graph.constant) - 4} more" if len(setup.graph.constant) > 4 else ""
            self._tell(events.Warned(self._step, f"constants that are not trained: {names}{more}"))

    def _loop(self, setup: _Setup, saver: checkpoint.Saver, stop: StopRequest) -> bool:
        """Do the steps that are left; True if a signal ended it before the last."""
        train = self.recipe.train
        axes = parallel.axes_of(setup.model)
        replica = axes.index("replicas"), axes.size("replicas")
        setup.model.train()
        begun_at, memory = self._step, peak_memory(self.world.device)
        while self._step < train.steps:
            outcome = self._advance(setup, stop)
            if self._step == begun_at + 1:
                self._tell(events.FirstStep(self._step, seconds=age(), start_memory_bytes=memory))
            last = self._step == train.steps
            due = train.checkpoint_every and self._step % train.checkpoint_every == 0
            if last or outcome.stop or due:
                tensors = checkpoint.run_state(setup.model, setup.optimizer)
                self._tell.settle(saver.start(self._step, tensors, self._state(), replica))
            else:
                self._tell.settle(saver.poll())
            if outcome.stop and not last:
                return True
        return False

    def _advance(self, setup: _Setup, stop: StopRequest) -> Outcome:
        began, train = time.perf_counter(), self.recipe.train
        torch.manual_seed(stable_seed(train.seed, "step", self._step, self.world.rank))
        batches = self._micro_batches(setup)
        outcome = setup.step.gradients(batches, lambda: stop.received is not None)
        if not outcome.finite:
            where = nonfinite.describe(setup.model, lambda: self._again(setup, batches))
            raise NonFiniteError(
                f"step {self._step + 1}: loss {outcome.loss}, gradient norm {outcome.grad_norm}; first not "
                f"finite: {where}. The checkpoints before it are good. Lower optim.lr or optim.clip"
            )
        rate = optim.lr(self._step, train.steps, self.recipe.optim)
        for group in setup.optimizer.param_groups:
            group["lr"] = rate
        setup.optimizer.step()
        setup.optimizer.zero_grad(set_to_none=True)
        self._step += 1
        self._loss = outcome.loss
        self._report(outcome, rate, time.perf_counter() - began)
        return outcome

    def _again(self, setup: _Setup, batches: list[GraphBatch]) -> None:
        """Forward and backward once more, for a diagnosis."""
        setup.step.gradients(batches, lambda: False)

    def _micro_batches(self, setup: _Setup) -> list[GraphBatch]:
        """This rank's share of the step, in micro-batches."""
        index = parallel.axes_of(setup.model).index("data")
        each, micro = self.recipe.rows_per_rank, self.recipe.micro_rows
        first = self._step * self.recipe.train.batch_rows + index * each
        return [setup.rows.batch(start, start + micro) for start in range(first, first + each, micro)]

    def _report(self, outcome: Outcome, rate: float, seconds: float) -> None:
        train = self.recipe.train
        self._tell.step_done(
            self._step,
            outcome,
            steps=train.steps,
            every=train.log_every,
            seconds=seconds,
            tokens=self._tokens(train.batch_rows),
            lr=rate,
            device=self.world.device,
        )

    def _tokens(self, rows: int) -> int:
        """Tokens of so many rows; of rows that are none, rows."""
        data = self.recipe.data
        return rows * data.seq_len if isinstance(data, TokenRows) else rows

    def _state(self) -> Mapping[str, Any]:
        return {
            "seed": self.recipe.train.seed,
            "identity": identity(self.recipe),
            "world": self.world.size,
            "random": "seeded for each step from (seed, step, rank)",
            "libraries": libraries(),
        }

    def _end(self, status: events.Status, began: float, message: str) -> None:
        seconds = time.perf_counter() - began
        self._tell.end(events.RunEnded(self._step, status, self._loss, seconds, message))
