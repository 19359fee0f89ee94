"""Continuous batching of a model that is cut over ranks: rank 0 takes the requests, all do the same steps.

Such a model (`infer.tensor_parallel`) computes only where all ranks make the same call. `SpreadBatcher`, on
rank 0, tells the others what comes next and does it; each of them does what it is told on a batcher of its
own (`follow`), whose slots hold the keys and values of its own heads. What depends on the moment is told too:
the time by which deadlines pass, and which requests nobody wants any more.

    batcher = SpreadBatcher(engine)     # rank 0: as `Batcher`
    batcher.release()                   # at its end

    follow(engine)                      # the others, until then
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.distributed as dist

from mainspring.errors import RunFault, UsageError
from mainspring.infer.batching.request import News, Request
from mainspring.infer.batching.scheduler import Batcher
from mainspring.infer.batching.settings import BatchSettings
from mainspring.infer.batching.stats import BatchStats
from mainspring.infer.engine import Engine, Prompt
from mainspring.infer.options import GenerateOptions
from mainspring.infer.prepared import Prepared


@dataclass(frozen=True, slots=True)
class _Add:
    prepared: Prepared
    deadline: float | None


@dataclass(frozen=True, slots=True)
class _Step:
    now: float
    unwanted: tuple[int, ...]
    """Numbers of requests, in the order in which they were added."""


@dataclass(frozen=True, slots=True)
class _End:
    reason: str


@dataclass(frozen=True, slots=True)
class _Rest:
    pass


@dataclass(frozen=True, slots=True)
class _Release:
    pass


_Command = _Add | _Step | _End | _Rest


class _Part:
    """One rank's batcher, and what it does when it is told to."""

    def __init__(self, engine: Engine, settings: BatchSettings | None) -> None:
        self._now = 0.0
        self.batcher = Batcher(engine, settings, clock=lambda: self._now)
        self.requests: dict[int, Request] = {}
        """Those that are not done, by number."""
        self._added = 0

    def do(self, command: _Command, fault: Exception | None = None) -> list[News]:
        match command:
            case _Add(prepared, deadline):
                self.requests[self._added] = self.batcher.add(prepared, deadline)
                self._added += 1
                return []
            case _Step(now, unwanted):
                self._now = now
                for number in unwanted:
                    self.requests.pop(number).cancelled = True
                said = self.batcher.step()
                self._forget({news.request for news in said if news.last or news.fault is not None})
                return said
            case _End(reason):
                self.requests.clear()
                return self.batcher.end(fault or RunFault(reason))
            case _Rest():
                self.batcher.rest()
                return []

    def _forget(self, done: set[Request]) -> None:
        self.requests = {number: request for number, request in self.requests.items() if request not in done}


class SpreadBatcher:
    """`Batcher` on rank 0 of a model that is cut over ranks, while the others `follow`."""

    def __init__(
        self,
        engine: Engine,
        settings: BatchSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As `Batcher`; every rank has the same settings."""
        self._part, self._clock = _Part(engine, settings), clock
        self._wanted: dict[Request, tuple[int, Request]] = {}
        """Number of each request that is not done, and what its caller holds of it."""
        self._turn = threading.Lock()

    @property
    def alone(self) -> str | None:
        """See `Batcher.alone`."""
        return self._part.batcher.alone

    @property
    def width(self) -> int:
        """See `Batcher.width`."""
        return self._part.batcher.width

    @property
    def busy(self) -> bool:
        """See `Batcher.busy`."""
        return self._part.batcher.busy

    def stats(self) -> BatchStats:
        """See `Batcher.stats`: of rank 0, whose bytes are a share of all."""
        return self._part.batcher.stats()

    def prepare(self, prompts: Sequence[Prompt], options: GenerateOptions) -> Prepared:
        """See `Batcher.prepare`.

        Raises:
            UsageError: as it does; or a draft model is given, which other ranks do not have.
        """
        if options.draft is not None:
            raise UsageError("a model that is cut over ranks takes no draft model; leave `draft` out")
        return self._part.batcher.prepare(prompts, options)

    def add(self, prepared: Prepared, deadline: float | None = None) -> Request:
        """See `Batcher.add`."""
        with self._turn:
            self._do(_Add(prepared, deadline))
            number, inner = next(reversed(self._part.requests.items()))
            # What a caller sets at any moment must not be seen by this rank alone.
            outer = Request(prepared, deadline, inner.alone, inner.unfinished)
            self._wanted[inner] = number, outer
            return outer

    def step(self) -> list[News]:
        """See `Batcher.step`."""
        with self._turn:
            unwanted = {inner: number for inner, (number, outer) in self._wanted.items() if outer.cancelled}
            for inner in unwanted:
                del self._wanted[inner]
            return self._outside(self._do(_Step(self._clock(), tuple(unwanted.values()))))

    def end(self, fault: Exception) -> list[News]:
        """See `Batcher.end`."""
        with self._turn:
            return self._outside(self._do(_End(str(fault)), fault))

    def rest(self) -> None:
        """See `Batcher.rest`. Called now and then, it also keeps those that follow from giving up."""
        with self._turn:
            self._do(_Rest())

    def release(self) -> None:
        """Let the other ranks go; nothing can be asked for afterwards."""
        with self._turn:
            _tell(_Release())

    def _do(self, command: _Command, fault: Exception | None = None) -> list[News]:
        _tell(command)
        return self._part.do(command, fault)

    def _outside(self, said: Sequence[News]) -> list[News]:
        """News with the requests that callers hold."""
        found = []
        for news in said:
            if news.request in self._wanted:
                outer = self._wanted[news.request][1]
                outer.unfinished = news.request.unfinished
                found.append(news._replace(request=outer))
                if news.last or news.fault is not None:
                    del self._wanted[news.request]
        return found


def follow(engine: Engine, settings: BatchSettings | None = None) -> None:
    """Do what rank 0 does, until it releases this one.

    Raises:
        Exception: a step failed here that went well on rank 0.
    """
    part = _Part(engine, settings)
    fault: Exception | None = None
    while not isinstance(command := _hear(), _Release):
        if fault is not None and not isinstance(command, _End):
            raise fault
        try:
            part.do(command)
            fault = None
        except Exception as error:  # rank 0, where it should have failed too, ends all requests
            fault = error


def _tell(command: _Command | _Release) -> None:
    dist.broadcast_object_list([command], src=0)


def _hear() -> _Command | _Release:
    told: list[_Command | _Release | None] = [None]
    dist.broadcast_object_list(told, src=0)
    assert told[0] is not None
    return told[0]
