"""An engine that follows a script, and what it takes to serve it: in this process or in one of its own."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fastapi.testclient import TestClient

from mainspring.errors import UsageError
from mainspring.infer import GenerateOptions, Generation, Piece, TokenLogprob
from mainspring.serve import Limits, create_app


class Scripted:
    """Continues every prompt with the same text, a character a token; remembers what it was asked."""

    def __init__(self, text: str = "Hello, wörld 🐈!", pause: float = 0.0) -> None:
        self.text, self.pause = text, pause
        self.asked: list[GenerateOptions] = []
        self.steps = 0
        self.closed = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def start(self, prompts: Sequence[str | Sequence[int]], options: GenerateOptions) -> Generation:
        """As `Engine.start`; a prompt of "long" is refused, one of "fault" fails on the way."""
        if "long" in prompts:
            raise UsageError("prompt 0 has 99 tokens and the model has 64 positions")
        self.asked.append(options)
        return Generation(tuple(len(p) for p in prompts), self._pieces(prompts, options))

    def _pieces(self, prompts: Sequence[str | Sequence[int]], options: GenerateOptions) -> Iterator[Piece]:
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
                        yield Piece(p, i, self.text[k], 1, (entry,) if options.logprobs else (), finish)
        finally:
            self.closed.set()


@contextmanager
def client_of(*engines: Scripted, limits: Limits | None = None) -> Iterator[TestClient]:
    """A client of an application that serves engines named m, m1, ..."""
    names = ["m", *(f"m{k}" for k in range(1, len(engines)))]
    app = create_app(dict(zip(names, engines, strict=True)), limits=limits)
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

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; returns the exit code and the rest of the output."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=60)
        return self.process.returncode, rest
