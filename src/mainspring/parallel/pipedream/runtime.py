"""Train a pipeline of stages without stopping it between updates, or with a stop: one rank's part.

Sources: PipeDream (SOSP '19) section 3; PipeDream-2BW (arXiv 2006.09503) section 3. With w_s^(t) the weights
of stage s (of n, from 1) after t updates, and f the loss of the next minibatch:

- weight stashing: w^(t+1) = w^(t) - lr grad f(w_1^(t-n+1), w_2^(t-n+2), ..., w_n^(t))
- vertical sync:   w^(t+1) = w^(t) - lr grad f(w_1^(t-n+1), ..., w_n^(t-n+1))
- 2BW:             w^(t+1) = w^(t) - lr grad f(w^(t-1)), f over `accumulate` minibatches
- flush:           w^(t+1) = w^(t) - lr grad f(w^(t)), f over `accumulate` minibatches

(plain SGD stands for any optimizer).
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from mainspring import comm
from mainspring.errors import CheckpointError, CollectiveError, PlanError, StageError
from mainspring.parallel.pipedream.layout import Layout
from mainspring.parallel.pipedream.links import Kind, Links, Message
from mainspring.parallel.pipedream.schedule import ASYNCHRONOUS, Op, Semantics, check, order
from mainspring.parallel.pipedream.stage import Loss, Stage
from mainspring.parallel.pipedream.versions import Versions
from mainspring.parallel.pipedream.watch import Watch

Batches = Callable[[int], tuple[Any, Any]]
"""Number of a minibatch -> (input, targets): a tensor or a tuple of tensors, and what the loss takes. A pure
function: the first and the last stage call it, each for its own half."""


class Pipeline:
    """A stage of a pipeline on this rank. All ranks of the default group make one, in the same way.

    Args:
        module: this rank's stage; replicas of a stage start with equal weights.
        layout: stages over ranks.
        optimizer: makes the optimizer of the stage's parameters.
        loss: (what the last stage gives, targets) -> scalar, a mean over the minibatch; on the last stage.
        semantics: what weights a gradient is of.
        accumulate: minibatches of an update for "2bw", "flush" and "gpipe".
        timeout: seconds within which a rank that is silent stops the run. One that dies stops it at once.
        counter: counts what this rank sends: "activations", "gradients", and "weights" between replicas.

    Raises:
        PlanError: ranks, stages and numbers do not go together.

    Use it in a `with`, or `close` it: all ranks leave together.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        loss: Loss | None = None,
        semantics: Semantics = "stashing",
        accumulate: int = 1,
        timeout: float = 60.0,
        counter: comm.Counter | None = None,
    ) -> None:
        size = dist.get_world_size() if dist.is_initialized() else 1
        if layout.workers != size:
            raise PlanError(
                f"{layout.replicas} replicas of stages need {layout.workers} ranks; {size} are started"
            )
        check(layout, semantics, 0, accumulate)
        self.layout, self.semantics, self.accumulate = layout, semantics, accumulate
        self.rank = dist.get_rank() if size > 1 else 0
        self.stage, self.replica = layout.place(self.rank)
        if (loss is None) == self.is_last:
            raise PlanError(
                f"the last of {layout.stages} stages has the loss and no other; this is {self.stage}"
            )
        self.module, self.counter, self.timeout = module, counter, timeout
        self.optimizer = optimizer(module.parameters())
        self.minibatch = 0
        """Minibatches trained."""
        self._versions = Versions(module, stash=semantics != "unstashed")
        self._passes = Stage(module, self._versions, loss)
        self._links: Links | None = None
        self._watch: Watch | None = None
        self._base = 0
        self._used: list[int] = []
        self._failed = False
        self.replicas: dist.ProcessGroup | None = None
        """The ranks that hold the same stage, where there are several."""
        if size > 1:
            limit = timedelta(seconds=timeout)
            self._group = dist.new_group(backend="gloo", timeout=limit)
            for stage, many in enumerate(layout.replicas):
                if many > 1:
                    made = dist.new_group(list(layout.ranks(stage)), backend="gloo", timeout=limit)
                    self.replicas = made if stage == self.stage else self.replicas
            self._watch = Watch(self._group, layout.describe, timeout, self._wake)

    @property
    def is_last(self) -> bool:
        """True on the ranks that have the loss."""
        return self.stage == self.layout.stages - 1

    @property
    def updates(self) -> int:
        """Updates that this stage has made."""
        return self._versions.newest

    @property
    def most_versions(self) -> int:
        """Most versions of its weights that this rank has held at once, the newest included."""
        return self._versions.most

    @property
    def most_in_flight(self) -> int:
        """Most minibatches between their forward and their backward here at once."""
        return self._passes.most_in_flight

    def train(self, batches: Batches, count: int) -> dict[int, float]:
        """Train the next `count` minibatches; the pipeline is empty before and after.

        Args:
            batches: see `Batches`.
            count: a whole number of updates at every stage.

        Returns:
            Loss by the number of the minibatch, of those that this rank had at the last stage.

        Raises:
            PlanError: `count` is no whole number of updates.
            StageError: another rank failed, died or fell silent; its stage and rank are named on every rank.
                This pipeline is of no further use.
        """
        if self._failed:
            raise PlanError("this pipeline has failed: make a new one and load the newest checkpoint")
        ops = order(self.layout, self.rank, self.semantics, count, self.accumulate)
        self._base = self.updates
        try:
            if self._watch is not None:
                self._watch.check()
                self._links = Links(self._group, self._expected(ops), self._watch.check, self.counter)
            losses: dict[int, float] = {}
            for op in ops:
                if op.kind == "F":
                    self._forward(op.batch, batches, losses)
                elif op.kind == "B":
                    self._backward(op.batch)
                else:
                    self._update(op.batch)
            if self._links is not None:
                self._links.finish()
        except BaseException as error:
            self._fail(error)
            raise
        self._links = None
        if self.semantics != "2bw":
            self._versions.keep_from(None)
        self.minibatch += count
        return losses

    def state(self) -> dict[str, Any]:
        """What a checkpoint of this stage holds, between two calls of `train`: the pipeline is empty then, so
        nothing else is stashed. The tensors are the live ones."""
        previous = None
        if self.semantics == "2bw" and self.updates:
            previous = self._versions.weights(self.updates - 1)
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "previous": previous,
            "updates": self.updates,
            "minibatch": self.minibatch,
            "semantics": self.semantics,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            CheckpointError: it is of other semantics that this one cannot go on from.
        """
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.resume(state["minibatch"], state["updates"], state["semantics"], state["previous"])

    def resume(
        self, minibatch: int, updates: int, semantics: Semantics, previous: list[Tensor] | None
    ) -> None:
        """Count from where the weights and the optimizer's states, which are in place already, were made.

        Args:
            minibatch: minibatches trained.
            updates: updates of this stage.
            semantics: under which it was trained.
            previous: parameters one update older, under "2bw".

        Raises:
            CheckpointError: 2BW needs the previous weights and the checkpoint is of other semantics.
        """
        if self.semantics == "2bw" and updates and previous is None:
            raise CheckpointError(
                f"2bw goes on from the weights one update older, which a checkpoint of {semantics} has not"
            )
        self.minibatch = minibatch
        self._versions.restart(updates, previous if self.semantics == "2bw" else None)

    def close(self) -> None:
        """Leave together with all other ranks."""
        if self._watch is not None:
            self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)
        self.close()

    def _forward(self, index: int, batches: Batches, losses: dict[int, float]) -> None:
        layout, targets = self.layout, None
        if self.stage == 0:
            given = batches(self.minibatch + index)[0]
            inputs = given if isinstance(given, tuple) else (given,)
            wants: tuple[bool, ...] = (False,) * len(inputs)
        else:
            _, inputs, wants = self._take("activations", layout.rank(self.stage - 1, index), index)
        if self.is_last:
            targets = batches(self.minibatch + index)[1]
        outputs = self._passes.forward(index, self._version(index), inputs, wants, targets)
        if self.semantics == "vertical_sync":
            self._versions.keep_from(self._version(index + layout.replicas[self.stage]))
        if self.is_last:
            losses[self.minibatch + index] = float(outputs[0].detach())
        else:
            assert self._links is not None
            asks = tuple(out.requires_grad for out in outputs)
            message = Message(index, tuple(out.detach() for out in outputs), asks)
            self._links.send("activations", layout.rank(self.stage + 1, index), message)

    def _backward(self, index: int) -> None:
        gradients: tuple[Tensor, ...] = ()
        if not self.is_last:
            gradients = self._take("gradients", self.layout.rank(self.stage + 1, index), index).tensors
        version, given = self._passes.backward(index, gradients)
        self._used.append(version)
        if self.stage > 0:
            assert self._links is not None
            to = self.layout.rank(self.stage - 1, index)
            self._links.send("gradients", to, Message(index, given, (False,) * len(given)))

    def _update(self, index: int) -> None:
        """Average what the last backwards have left, over minibatches and replicas, and step."""
        versions = self._versions
        gradients = versions.take_gradients(self._used[-1])
        while self._used:
            versions.release(self._used.pop())
        many = self.layout.replicas[self.stage]
        per = 1 if self.semantics in ASYNCHRONOUS else self.accumulate // many
        self._average([g for g in gradients if g is not None], per * many)
        if self.semantics == "2bw":
            versions.keep_from(versions.newest)
        versions.before_update(gradients)
        self.optimizer.step()
        versions.after_update()
        assert versions.newest == self._base + index + 1

    def _average(self, gradients: list[Tensor], count: int) -> None:
        if count == 1 or not gradients:
            return
        if self.replicas is not None:
            flat = torch.cat([g.reshape(-1) for g in gradients])
            comm.all_reduce(flat, name="weights", group=self.replicas, counter=self.counter)
            parts = torch.split(flat, [g.numel() for g in gradients])
            torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])
        torch._foreach_div_(gradients, float(count))

    def _version(self, index: int) -> int:
        """The version of the weights that a minibatch goes through."""
        if self.semantics == "2bw":
            return max(0, self._base + index // self.accumulate - 1)
        if self.semantics == "vertical_sync":
            many = self.layout.replicas[0]
            learnt = many * max(0, index // many - self.layout.warmup(0))
            return self._base + learnt // self.layout.replicas[self.stage]
        return self.updates

    def _take(self, kind: Kind, source: int, index: int) -> Message:
        assert self._links is not None
        message = self._links.receive(kind, source)
        assert message.batch == index, (kind, message.batch, index)
        return message

    def _expected(self, ops: list[Op]) -> dict[tuple[Kind, int], int]:
        """How many messages come from which rank."""
        found: Tally[tuple[Kind, int]] = Tally()
        for op in ops:
            if op.kind == "F" and self.stage > 0:
                found["activations", self.layout.rank(self.stage - 1, op.batch)] += 1
            elif op.kind == "B" and not self.is_last:
                found["gradients", self.layout.rank(self.stage + 1, op.batch)] += 1
        return dict(found)

    def _wake(self) -> None:
        if self._links is not None:
            self._links.wake()

    def _fail(self, error: BaseException) -> None:
        """Tell the other ranks why this one stops; where another is the cause, name that one."""
        if self._failed or self._watch is None:
            return
        self._failed = True
        if isinstance(error, CollectiveError):  # a replica may be gone: the news is on its way
            self._watch.wait(2.0)
        if not isinstance(error, StageError):
            self._watch.fail(f"{self.layout.describe(self.rank)} failed: {type(error).__name__}: {error}")
