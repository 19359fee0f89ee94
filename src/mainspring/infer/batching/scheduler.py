"""Batcher: continuous batching. Requests join and leave between steps; each gets the text it would get alone.

    batcher = Batcher(engine)
    request = batcher.add(batcher.prepare(["Once upon a time"], GenerateOptions(max_tokens=40)))
    while batcher.busy:
        for news in batcher.step():
            ...

A step reads one token of every row that is being written, then a bounded number of tokens of prompts that
have joined, and chooses the next token of each row (Yu et al. 2022, Orca; Agrawal et al. 2023, Sarathi, arXiv
2308.16369, for prompts in chunks). Rows lie in the first slots of the cache, side by side, prompts in those
after them; a row that leaves gives its place to the last one.

Not for several threads at once; `Request.cancelled` may be set from any.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from mainspring.errors import UsageError
from mainspring.infer.alone import model_alone, request_alone
from mainspring.infer.batching.choosing import Chooser, choose_tokens
from mainspring.infer.batching.prefix import PrefixStore
from mainspring.infer.batching.request import DeadlineError, Filling, News, Request, Row
from mainspring.infer.batching.settings import BatchSettings
from mainspring.infer.batching.stats import BatchStats
from mainspring.infer.engine import Engine, Prompt
from mainspring.infer.options import GenerateOptions
from mainspring.infer.prepared import Prepared
from mainspring.infer.sample import row_generator
from mainspring.infer.slot_reader import SlotReader


class Batcher:
    """Writes the completions of many requests side by side."""

    def __init__(
        self,
        engine: Engine,
        settings: BatchSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` is what deadlines are told in."""
        self.engine, self.settings, self._clock = engine, settings or BatchSettings(), clock
        self.alone = model_alone(engine.model, engine.layout)
        """Why the model's requests run one after another; None: they run side by side."""
        slots, context = self.settings.slots, self.settings.context
        self.context = context if engine.max_positions is None else min(context, engine.max_positions)
        """Tokens of a row at most."""
        self._reader = SlotReader(
            engine.model, engine.vocabulary, engine.layout, slots=slots, context=self.context
        )
        self._prefixes = PrefixStore(self.settings.prefix_bytes, self.settings.prefix_block)
        self._waiting: deque[Filling] = deque()
        self._filling: list[Filling] = []
        self._rows: list[Row] = []
        self._solo: deque[Request] = deque()
        self._said: list[News] = []
        self._prompt_tokens = self._reused_tokens = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._said or self._waiting or self._filling or self._rows or self._solo)

    def stats(self) -> BatchStats:
        """Present state and counts."""
        cache = self._reader.cache
        return BatchStats(
            waiting=len(self._waiting) + len(self._solo),
            reading=len(self._filling),
            writing=len(self._rows),
            slots=self.settings.slots,
            tokens=sum(cache.lengths),
            cache_bytes=cache.nbytes,
            prefix_bytes=self._prefixes.nbytes,
            prompt_tokens=self._prompt_tokens,
            reused_tokens=self._reused_tokens,
        )

    @property
    def width(self) -> int:
        """Completions that are written at once."""
        return 1 if self.alone else self.settings.slots

    def prepare(self, prompts: Sequence[Prompt], options: GenerateOptions) -> Prepared:
        """`Engine.prepare` and `check`. May be called from any thread.

        Raises:
            UsageError: as they do.
        """
        prepared = self.engine.prepare(prompts, options)
        self.check(prepared)
        return prepared

    def check(self, prepared: Prepared) -> None:
        """Refuse what the slots cannot hold. May be called from any thread.

        Raises:
            UsageError: a prompt and its completion are longer than the context.
        """
        if self._why_alone(prepared):
            return
        for number, (prompt, limit) in enumerate(zip(prepared.prompts, prepared.limits, strict=True)):
            tokens = self.engine.layout.row(prompt).length + limit
            if tokens > self.context:
                raise UsageError(
                    f"prompt {number} has {len(prompt)} tokens and may be continued by {limit}: together "
                    f"{tokens}, and a row holds {self.context}; shorten the prompt, or ask for fewer tokens"
                )

    def add(self, prepared: Prepared, deadline: float | None = None) -> Request:
        """Put a request that passes `check` in line; it has to be done by `deadline`, where one is given."""
        n, layout = prepared.options.n, self.engine.layout
        request = Request(prepared, deadline, self._why_alone(prepared), n * len(prepared.prompts))
        if request.alone is not None:
            self._solo.append(request)
            return request
        most = self.settings.slots
        for p, prompt in enumerate(prepared.prompts):
            if prepared.limits[p] <= 0:
                self._say_nothing(request, p)
                continue
            row, given = layout.row(prompt), layout.given(prompt)
            for start in range(0, n, most):
                indices = list(range(start, min(start + most, n)))
                self._waiting.append(Filling(request, p, indices, row, given))
        return request

    def step(self) -> list[News]:
        """Do a step; what it brought, in order."""
        said, self._said = self._said, []
        said += self._sweep()
        said += self._step_alone()
        self._admit()
        if self._rows:
            tokens = [[row.tokens[-1]] for row in self._rows]
            for row, logits in zip(self._rows, self._reader.read(range(len(tokens)), tokens), strict=True):
                row.logits = logits[-1]
        said += self._fill()
        said += self._choose()
        return said

    def end(self, fault: Exception) -> list[News]:
        """Give up everything there is; `fault` is why."""
        requests = self._requests()
        self._waiting.clear()
        self._filling.clear()
        self._rows.clear()
        self._said.clear()
        for request in self._solo:
            _close(request)
        self._solo.clear()
        self._prefixes.clear()
        self._reader.cache.release()
        return [News(request, None, fault) for request in requests]

    def rest(self) -> None:
        """Give the cache's memory back while there is nothing to do; prefixes are kept."""
        if not self.busy:
            self._reader.cache.release()

    def _why_alone(self, prepared: Prepared) -> str | None:
        return self.alone or request_alone(prepared.options)

    def _requests(self) -> list[Request]:
        """All there are, each once."""
        prompts = [filling.request for filling in (*self._filling, *self._waiting)]
        rows, said = [row.request for row in self._rows], [news.request for news in self._said]
        return list(dict.fromkeys([*rows, *prompts, *self._solo, *said]))

    def _say_nothing(self, request: Request, prompt: int) -> None:
        """The pieces of completions without a token."""
        prepared = request.prepared
        for index in range(prepared.options.n):
            writer = self.engine.writer(prepared, prompt, index)
            if prepared.options.echo:
                echo = writer.echo(prepared.texts[prompt], prepared.prompts[prompt], None)
                self._said.append(request.tell(echo))
            self._said.append(request.tell(writer.close("length")))

    def _sweep(self) -> list[News]:
        """Let go of what nobody wants, or what is late."""
        now = self._clock()
        late = [r for r in self._requests() if r.deadline is not None and now >= r.deadline]
        late = [request for request in late if request.unfinished and not request.cancelled]
        for request in late:
            request.cancelled = True
        for k in reversed(range(len(self._rows))):
            if self._rows[k].request.cancelled:
                self._leave(k)
        for filling in [f for f in self._filling if f.request.cancelled]:
            self._filling.remove(filling)
            self._reader.cache.truncate(filling.slot, 0)
        self._waiting = deque(filling for filling in self._waiting if not filling.request.cancelled)
        for request in [request for request in self._solo if request.cancelled]:
            _close(request)
            self._solo.remove(request)
        message = "the deadline of the request has passed before it was done; ask for fewer tokens"
        return [News(request, None, DeadlineError(message)) for request in late]

    def _step_alone(self) -> Iterator[News]:
        """A piece of the first of the requests that run alone."""
        if not self._solo:
            return
        request = self._solo[0]
        try:
            if request.pieces is None:
                request.pieces = self.engine.pieces(request.prepared)
            piece = next(request.pieces, None)
        except Exception as error:  # its own fault, not the others'
            self._solo.popleft()
            yield News(request, None, error)
            return
        if piece is None:
            self._solo.popleft()
        else:
            yield request.tell(piece)

    def _admit(self) -> None:
        """Give waiting prompts a slot, in order, as long as there is one for each of their completions."""
        while self._waiting:
            filling = self._waiting[0]
            reserved = len(self._rows) + sum(len(f.indices) for f in self._filling)
            if reserved + len(filling.indices) > self.settings.slots:
                return
            self._waiting.popleft()
            filling.slot = self._free()
            self._filling.append(filling)
            self._reader.begin(filling.slot, filling.given)
            if self.engine.layout.continues:
                filling.read = self._prefixes.restore(
                    filling.row.ids.tolist(), self._reader.cache, filling.slot
                )
                self._reused_tokens += filling.read

    def _free(self) -> int:
        taken = {filling.slot for filling in self._filling}
        return next(k for k in range(len(self._rows), self.settings.slots) if k not in taken)

    def _fill(self) -> Iterator[News]:
        """Read on in the prompts that come first, as many tokens as a chunk has, padding counted."""
        chunk, chosen, width = self.settings.chunk, list[Filling](), 0
        for filling in self._filling:
            left = filling.row.length - filling.read
            # What all see, all have to be read with.
            part = left if self.engine.layout.whole else min(left, chunk)
            if chosen and max(width, part) * (len(chosen) + 1) > chunk:
                break
            chosen.append(filling)
            width = max(width, part)
        if not chosen:
            return
        parts = [f.row.take(slice(f.read, min(f.read + width, f.row.length))) for f in chosen]
        logits = self._reader.prompts([f.slot for f in chosen], parts)
        for filling, taken, last in zip(chosen, parts, logits, strict=True):
            filling.read += taken.length
            self._prompt_tokens += taken.length
            if filling.read == filling.row.length:
                yield from self._start(filling, last)

    def _start(self, filling: Filling, logits: Tensor) -> Iterator[News]:
        """Make rows of a prompt that has been read."""
        engine, request, reader = self.engine, filling.request, self._reader
        prepared, p = request.prepared, filling.prompt
        if engine.layout.mask is not None:
            logits = reader.read([filling.slot], [[]])[0][-1]
        if engine.layout.continues:
            self._prefixes.keep(filling.row.ids.tolist(), reader.cache, filling.slot)
        self._filling.remove(filling)
        for index in filling.indices:
            self._place(filling, len(self._rows))
            writer = engine.writer(prepared, p, index)
            if prepared.options.echo:
                yield request.tell(writer.echo(prepared.texts[p], prepared.prompts[p], None))
            generator = row_generator(prepared.options.seed, index)
            chooser = Chooser(prepared.options, generator, engine.history(prepared, p))
            self._rows.append(Row(request, p, index, prepared.limits[p], writer, chooser, logits))

    def _place(self, filling: Filling, slot: int) -> None:
        """Bring what has been read of a prompt into a row's slot; who is there moves."""
        there = next((other for other in self._filling if other.slot == slot), None)
        if filling.slot == slot:
            return
        first = filling.slot >= len(self._rows)  # for the prompt's first completion its slot is given up
        if there is None:
            self._reader.copy(filling.slot, slot)
        elif first:
            self._reader.swap(filling.slot, slot)
            there.slot = filling.slot
        else:
            there.slot = -1
            there.slot = self._free_after(slot)
            self._reader.copy(slot, there.slot)
            self._reader.copy(filling.slot, slot)
        if first:
            if there is None:
                self._reader.cache.truncate(filling.slot, 0)
            filling.slot = slot

    def _free_after(self, slot: int) -> int:
        taken = {filling.slot for filling in self._filling} | {slot}
        return next(k for k in range(slot + 1, self.settings.slots) if k not in taken)

    def _choose(self) -> Iterator[News]:
        """The next token of every row; rows that are done leave."""
        if not self._rows:
            return
        tokens = choose_tokens([row.chooser for row in self._rows], [row.logits for row in self._rows])
        done: list[int] = []
        for k, (row, token) in enumerate(zip(self._rows, tokens, strict=True)):
            row.tokens.append(token)
            last = token == self.engine.layout.end or len(row.tokens) >= row.limit
            piece = row.writer.write(token, row.logits, last=last)
            if piece.finish is not None:
                done.append(k)
            yield row.request.tell(piece)
        for k in reversed(done):
            self._leave(k)

    def _leave(self, k: int) -> None:
        """Take row k out; the last row takes its place."""
        row, reader, last = self._rows[k], self._reader, len(self._rows) - 1
        if self.engine.layout.continues:
            tokens = [*row.request.prepared.prompts[row.prompt], *row.tokens]
            self._prefixes.keep(tokens, reader.cache, k)
        if k < last:
            reader.copy(last, k)
            self._rows[k] = self._rows[last]
        self._rows.pop()
        reader.cache.truncate(last, 0)


def _close(request: Request) -> None:
    """End a request that runs alone."""
    close = getattr(request.pieces, "close", None)
    if close is not None:
        close()
