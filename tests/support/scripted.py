"""An engine that follows a script, and what it takes to serve it: in this process or in one of its own."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fastapi.testclient import TestClient

from mainspring.errors import UsageError
from mainspring.infer import GenerateOptions, Piece, TokenLogprob
from mainspring.infer.batching import BatchStats, DeadlineError, News, Request
from mainspring.infer.prepared import Prepared
from mainspring.serve import Limits, Model, create_app


class Scripted:
    """Continues every prompt with the same text, a character a token; remembers what it was asked.

    Requests take their turn, as those of a model do that takes no cache.
    """

    width = 1

    def __init__(self, text: str = "Hello, wörld 🐈!", pause: float = 0.0) -> None:
        self.text, self.pause = text, pause
        self.asked: list[GenerateOptions] = []
        self.steps = 0
        self.closed = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.rested = 0
        self._turn: deque[Request] = deque()

    @property
    def busy(self) -> bool:
        return bool(self._turn)

    def prepare(self, prompts: Sequence[str | Sequence[int]], options: GenerateOptions) -> Prepared:
        """As `Batcher.prepare`; a prompt of "long" is refused, one of "fault" fails on the way."""
        if "long" in prompts:
            raise UsageError("prompt 0 has 99 tokens and the model has 64 positions")
        self.asked.append(options)
        texts = tuple(str(p) for p in prompts)
        tokens = tuple(tuple(map(ord, p)) if isinstance(p, str) else tuple(p) for p in prompts)
        return Prepared(texts, tokens, (options.max_tokens,) * len(tokens), options)

    def add(self, prepared: Prepared, deadline: float | None = None) -> Request:
        request = Request(prepared, deadline, "a script", len(prepared.prompts) * prepared.options.n)
        request.pieces = self._pieces(prepared.texts, prepared.options)
        self._turn.append(request)
        return request

    def step(self) -> list[News]:
        request = self._turn[0]
        if request.deadline is not None and time.monotonic() > request.deadline:
            self._leave()
            return [News(request, None, DeadlineError("the deadline of the request has passed"))]
        assert request.pieces is not None
        piece = None if request.cancelled else next(request.pieces, None)
        if piece is None:
            self._leave()
        return [News(request, piece, last=piece is None)]

    def end(self, fault: Exception) -> list[News]:
        requests = list(self._turn)
        while self._turn:
            self._leave()
        return [News(request, None, fault) for request in requests]

    def rest(self) -> None:
        self.rested += 1

    def stats(self) -> BatchStats:
        return BatchStats(max(0, len(self._turn) - 1), 0, min(1, len(self._turn)), 1, 0, 0, 0, 0, 0)

    def _leave(self) -> None:
        pieces = self._turn.popleft().pieces
        assert pieces is not None
        pieces.close()  # type: ignore[attr-defined]

    def _pieces(self, prompts: Sequence[str], options: GenerateOptions) -> Iterator[Piece]:
        self.closed.clear()
        try:
            ends = min(options.max_tokens, len(self.text))
            if options.echo:
                for p, prompt in enumerate(prompts):
                    yield Piece(p, 0, str(prompt), 0)
            for k in range(ends):
                self.go.wait(10)
                time.sleep(self.pause)
                if "fault" in prompts and k == 2:
                    raise RuntimeError("a secret of ours")
                self.steps += 1
                finish = None if k < ends - 1 else "stop" if ends == len(self.text) else "length"
                entry = TokenLogprob(self.text[k], -0.5, k, ((self.text[k], -0.5), ("x", -1.5)))
                for p in range(len(prompts)):
                    for i in range(options.n):
                        logprobs = () if options.logprobs is None else (entry,)
                        yield Piece(p, i, self.text[k], 1, logprobs, finish)
        finally:
            self.closed.set()


@dataclass(frozen=True)
class Found:
    """What `ScriptedReader` finds."""

    label: str
    score: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Vectors:
    vectors: torch.Tensor
    tokens: tuple[int, ...]


class ScriptedReader:
    """Vectors of letter counts, classes by length, scores by shared letters; remembers its batches."""

    def __init__(self, ranks: bool = False) -> None:
        self.ranks = ranks
        self.batches: list[list[object]] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self._saw(texts)
        rows = [[float(text.count(letter)) for letter in "abcdefgh"] for text in texts]
        return Vectors(torch.tensor(rows).view(len(texts), 8), tuple(self.count(texts)))

    def classify(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Found]:
        self._saw(texts)
        found = []
        for count in self.count(texts):
            long = count / (count + 5)
            label = "long" if long >= 0.5 else "short"
            found.append(Found(label, max(long, 1 - long), {"short": 1 - long, "long": long}))
        return found

    def score(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[float]:
        self._saw(texts)
        return [float(len(set(pair[0]) & set(pair[1]))) for pair in texts]

    def count(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[int]:
        return [sum(map(len, text)) for text in texts]

    def _saw(self, texts: Sequence[object]) -> None:
        if "fault" in texts:
            raise RuntimeError("a secret of ours")
        self.batches.append(list(texts))


@contextmanager
def client_of(*engines: Scripted | Model, limits: Limits | None = None, **more: Any) -> Iterator[TestClient]:
    """A client of an application that serves models named m, m1, ..."""
    names = ["m", *(f"m{k}" for k in range(1, len(engines)))]
    models = [one if isinstance(one, Model) else Model(writer=one) for one in engines]
    app = create_app(dict(zip(names, models, strict=True)), limits=limits, **more)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


class Served:
    """A server process on loopback."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        words = [w.rstrip(",") for w in self.first_line.split() if w.startswith("http://")]
        if not words:
            rest = self.process.communicate(timeout=60)[0]
            raise AssertionError(f"the server did not start: {self.first_line}{rest}")
        self.url = words[0]
        self._rest: list[str] = []
        self._reading = threading.Thread(target=lambda: self._rest.extend(self.process.stdout or ()))
        self._reading.start()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; returns the exit code and the rest of the output."""
        self.process.send_signal(number)
        return self.end(), "".join(self._rest)

    def end(self) -> int:
        """Wait for the end of the process and of its output; the exit code."""
        code = self.process.wait(60)
        self._reading.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code
