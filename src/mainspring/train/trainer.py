"""The trainer: from a recipe to a trained, saved model, told in events, resumable at any moment."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mainspring import optim, parallel
from mainspring.errors import NonFiniteError
from mainspring.nn.init import stable_seed
from mainspring.parallel import World
from mainspring.planner import Estimate, Machine
from mainspring.train import checkpoint, events, holdout, nonfinite, resume
from mainspring.train.allocator import keep_freed_memory
from mainspring.train.feed import Feed
from mainspring.train.journal import Journal, libraries
from mainspring.train.layer_drop import set_gates
from mainspring.train.memory import peak_memory
from mainspring.train.narrow import MixtureTraining, Narrow
from mainspring.train.narrow.measure import layer_eigenvalues
from mainspring.train.process import age
from mainspring.train.recipe import Recipe
from mainspring.train.run import Run
from mainspring.train.setup import Setup, prepare
from mainspring.train.signals import StopRequest
from mainspring.train.sinks import JsonLines, TensorBoard
from mainspring.train.step import Outcome, Step

MOST_SKIPPED = 20
"""Steps that may be skipped one after the other before the run is given up."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    status: events.Status
    """"finished", or "interrupted" by a signal: then the same call goes on from where it stopped."""
    step: int
    """Optimizer steps done."""
    loss: float | None
    """Of the last step; None if none was done."""
    checkpoint: Path | None
    """The newest checkpoint."""
    signal: signal.Signals | None = None
    """The signal that this rank got, if one came (another rank's interrupts the run as well)."""


class Trainer:
    """Carries out a recipe; every rank makes one and calls `fit`.

    Args:
        recipe: the run.
        run_dir: where it keeps what it makes, on a file system that all ranks see. A run found there goes on.
        world: the ranks.
        sinks: are told every event, on rank 0, beside the run's own files.
        machine: what the machine can do; None measures it.
        save: writes a checkpoint (the tests put faults here).
    """

    def __init__(
        self,
        recipe: Recipe,
        run_dir: str | Path,
        world: World,
        sinks: Sequence[events.Sink] = (),
        *,
        machine: Machine | None = None,
        save: checkpoint.Save = checkpoint.save,
    ) -> None:
        self.recipe = recipe.over(world.size)
        self.run = Run(Path(run_dir))
        self.world = world
        self.setup: Setup | None = None
        """Model, optimizer and data, once `fit` has built them."""
        self._given = recipe
        self._narrow: Narrow | None = None
        self._tell = Journal(sinks, main=world.is_main)
        self._machine = machine
        self._save = save
        self._step = 0
        self._skipped = 0
        self._in_a_row = 0
        self._loss: float | None = None

    def fit(self) -> Result:
        """Train until the last step or a signal. Takes up the newest complete checkpoint of the run's folder.

        Returns:
            How it ended; the same on every rank.

        Raises:
            UsageError: the recipe cannot be carried out, or the folder holds another run or a damaged
            checkpoint. NonFiniteError: a loss or gradient is not finite (names the first tensor and its
                module), and the recipe says to stop.
            CheckpointError: the last checkpoint could not be written.
        """
        began = time.perf_counter()
        with StopRequest() as stop:
            if self.world.is_main:
                self.run.checkpoints.mkdir(parents=True, exist_ok=True)
            self.world.barrier()
            saver = checkpoint.Saver(self.run.checkpoints, self.recipe.train.keep, save=self._save)
            try:
                before = resume.newest(self.run.checkpoints)
                setup = self.setup = prepare(
                    self.recipe,
                    self.world,
                    machine=self._machine,
                    micro_rows=resume.micro_rows(before, self.world.size) if before else 0,
                    resumes=before is not None,
                    planned=self._planned,
                    tried=self._tell,
                )
                if self.recipe.narrow is not None:
                    plan, seed = self.recipe.plan, self.recipe.train.seed
                    self._narrow = Narrow(self.recipe.narrow, setup.model, plan, seed)
                if before:
                    self._resume(setup, saver, before)
                self._begin(setup, resumed=before is not None)
                if self.recipe.train.keep_memory and not keep_freed_memory():
                    self._tell(events.Warned(self._step, "train.keep_memory: the C library is not glibc"))
                status: events.Status = "interrupted" if self._loop(setup, saver, stop) else "finished"
                self._tell.finish_saving(saver)
            except BaseException as error:
                if not isinstance(error, KeyboardInterrupt):  # who asks twice wants no waiting
                    with suppress(BaseException):  # the error at hand is the one to tell
                        self._tell.settle(saver.wait(timeout=10))
                self._end("failed", began, f"{type(error).__name__}: {error}")
                raise
            self._end(status, began, "")
        return Result(status, self._step, self._loss, checkpoint.latest(self.run.checkpoints), stop.received)

    def _planned(self, estimate: Estimate) -> None:
        self._tell(
            events.Planned(
                self._step,
                bytes_by_kind=dict(estimate.bytes_by_kind),
                bytes_per_rank=estimate.bytes_per_rank,
                memory_per_rank=estimate.memory_per_rank,
                seconds_per_step=estimate.seconds_per_step,
            )
        )

    def _resume(self, setup: Setup, saver: checkpoint.Saver, path: Path) -> None:
        resume.check_same_run(path, setup)
        content = checkpoint.load(path, setup.model, setup.optimizer, group=saver.group)
        self._step = content.step
        self._skipped = int(content.run.get("skipped", 0))
        scaler = parallel.loss_scaler(setup.model)
        if scaler is not None and content.run.get("loss_scale"):
            scaler.restore(content.run["loss_scale"])
        if self._narrow is not None:
            self._narrow.restore(content.run.get("narrow") or {})

    def _begin(self, setup: Setup, resumed: bool) -> None:
        if self.world.is_main:
            self.run.write_recipe(self._given)
            self.run.write_json(self.run.plan, setup.expected())
            setup.data.tokenizer.save(self.run.tokenizer)
            self._tell.keep(JsonLines(self.run.metrics, self._step))
            if self.recipe.train.tensorboard:
                self._tell.keep(TensorBoard(self.run.tensorboard, self._step))
        batch, train = setup.batch, self.recipe.train
        self._tell(
            events.RunStarted(
                self._step,
                name=self.recipe.name,
                steps=train.steps,
                resumed=resumed,
                world=self.world.size,
                device=str(self.world.device),
                precision=train.precision,
                parameters=setup.estimate.parameters.network,
                rows=batch.rows,
                tokens=batch.rows * self.recipe.data.seq_len,
                micro_rows=batch.micro_rows,
                accumulation=batch.accumulation,
                flops_per_token=setup.estimate.flops_per_token,
                peak_flops=setup.peak_flops,
            )
        )

        if setup.drawn:
            names = ", ".join(setup.drawn)
            self._tell(events.Warned(self._step, f"{train.init_from} has no such head; drawn anew: {names}"))

    def _loop(self, setup: Setup, saver: checkpoint.Saver, stop: StopRequest) -> bool:
        """Do the steps that are left; True if a signal ended it before the last."""
        train = self.recipe.train
        axes = parallel.axes_of(setup.model)
        feed = Feed(self.recipe, setup.data, setup.objective, setup.batch, axes)
        step = Step(
            setup.model, setup.objective, self.recipe.optim.clip, self.world.device, setup.config.experts
        )
        setup.model.train()
        begun_at, memory = self._step, peak_memory(self.world.device)
        while self._step < train.steps:
            outcome = self._advance(setup, feed, step, stop)
            if self._step == begun_at + 1:
                self._tell(events.FirstStep(self._step, seconds=age(), start_memory_bytes=memory))
            last = self._step == train.steps
            if train.eval_every and (last or self._step % train.eval_every == 0):
                self._evaluate(setup)
            if last or outcome.stop or (train.checkpoint_every and self._step % train.checkpoint_every == 0):
                replica = axes.index("replicas"), axes.size("replicas")
                self._tell.settle(saver.start(self._step, self._tensors(setup), self._state(setup), replica))
            else:
                self._tell.settle(saver.poll())
            if outcome.stop and not last:
                return True
        return False

    def _advance(self, setup: Setup, feed: Feed, step: Step, stop: StopRequest) -> Outcome:
        """One optimizer step, reported."""
        began = time.perf_counter()
        train, optimizer = self.recipe.train, setup.optimizer
        micro_batches = feed.micro_batches(self._step)
        self._narrow_weights(setup, micro_batches)
        if train.layer_drop is not None:
            set_gates(setup.model, train.layer_drop, train.seed, self._step, train.steps)
        # Chance inside the model is a function of the step too, so a checkpoint needs no generator states.
        # Ranks of a tensor group, which are consecutive, have the same.
        chance = self.world.rank // self.recipe.plan.tensor
        torch.manual_seed(stable_seed(train.seed, "step", self._step, chance))
        outcome = step.gradients(micro_batches, lambda: stop.received is not None)
        rate = optim.lr(self._step, train.steps, self.recipe.optim)
        overflow = self._overflow(setup)
        if outcome.finite or overflow:  # a step that overflowed changes nothing but the loss scale
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            self._in_a_row = 0
        reason = overflow
        if not (outcome.finite or overflow):
            reason = self._diagnose(setup, step, micro_batches, outcome)
        step.finish(outcome.finite and not overflow)
        optimizer.zero_grad(set_to_none=True)
        self._step += 1
        if reason:
            self._tell(events.StepSkipped(self._step, reason, self._skipped))
        else:
            self._loss = outcome.loss
            self._report(setup, outcome, rate, time.perf_counter() - began)
        return outcome

    def _narrow_weights(self, setup: Setup, micro_batches: Sequence[Any]) -> None:
        """Set what products see of the weights in the step that is next, if the recipe narrows them."""
        narrow = self._narrow
        if narrow is None:
            return

        def measure(layers: Mapping[str, nn.Module]) -> dict[str, float]:
            assert isinstance(narrow.config, MixtureTraining)
            return layer_eigenvalues(
                setup, narrow.config, layers, micro_batches, self._step, self.world.device
            )

        if narrow.begin(self._step, measure):
            self._tell(events.Narrowed(self._step, narrow.bits))

    def _report(self, setup: Setup, outcome: Outcome, rate: float, seconds: float) -> None:
        train, tokens = self.recipe.train, setup.batch.rows * self.recipe.data.seq_len
        self._tell.step_done(
            self._step,
            outcome,
            steps=train.steps,
            every=train.log_every,
            seconds=seconds,
            tokens=tokens,
            lr=rate,
            device=self.world.device,
            mfu=setup.estimate.flops_per_token * tokens / seconds / setup.peak_flops,
        )

    def _overflow(self, setup: Setup) -> str:
        """What overflowed fp16 in this step, if anything did; a smaller loss scale is next."""
        scaler = parallel.loss_scaler(setup.model)
        if scaler is None or scaler.culprit is None:
            return ""
        self._skipped += 1
        return f"the gradient of {scaler.culprit} overflowed fp16 at a loss scale of {scaler.scale:g}"

    def _diagnose(self, setup: Setup, step: Step, micro_batches: Sequence[Any], outcome: Outcome) -> str:
        """Name the culprit of a step that is not finite; raise unless the recipe says to go on without it."""
        where = nonfinite.describe(setup.model, step.rerun(micro_batches))
        said = (
            f"step {self._step + 1}: loss {outcome.loss}, gradient norm {outcome.grad_norm}; "
            f"first not finite: {where}"
        )
        if self.recipe.train.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{said}. The checkpoints before it are good. Lower optim.lr or optim.clip, use "
                'train.precision = "fp32", or leave such steps out with train.on_nonfinite = "skip"'
            )
        self._skipped += 1
        self._in_a_row += 1
        if where.startswith("parameter") or self._in_a_row >= MOST_SKIPPED:
            raise NonFiniteError(f"{said}; {self._in_a_row} steps in a row were skipped; more will not help")
        return said

    def _evaluate(self, setup: Setup) -> None:
        if self.recipe.data.pairs is not None and self.recipe.data.pairs_share == 1:
            self._tell(events.Warned(self._step, "no pairs are held out, so nothing is evaluated"))
            return
        score = holdout.score(
            setup.model,
            setup.objective,
            setup.data,
            step=self._step,
            seq_len=self.recipe.data.seq_len,
            rows=setup.batch.micro_rows,
            max_tokens=self.recipe.train.eval_tokens,
            device=self.world.device,
        )
        if score is None:
            self._tell(events.Warned(self._step, "the data has no held-out text, so nothing is evaluated"))
        else:
            self._tell(score)

    def _tensors(self, setup: Setup) -> dict[str, checkpoint.Leaf]:
        return checkpoint.run_state(setup.model, setup.optimizer)

    def _state(self, setup: Setup) -> Mapping[str, Any]:
        scaler = parallel.loss_scaler(setup.model)
        return {
            "seed": self.recipe.train.seed,
            "recipe": resume.digest(self.recipe.model_dump(mode="json")),
            "identity": resume.identity(self.recipe, setup.data),
            "world": self.world.size,
            "micro_rows": setup.batch.micro_rows,
            "skipped": self._skipped,
            "loss_scale": None if scaler is None else scaler.state(),
            "narrow": None if self._narrow is None else self._narrow.state(),
            "random": "seeded for each step from (seed, step, rank without the tensor axis)",
            "libraries": libraries(),
        }

    def _end(self, status: events.Status, began: float, message: str) -> None:
        seconds = time.perf_counter() - began
        self._tell.end(events.RunEnded(self._step, status, self._loss, seconds, message))
