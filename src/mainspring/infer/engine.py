"""Engine: a model, its tokenizer and a way to continue text.

    engine = Engine.load("runs/quickstart")
    engine.generate(["Once upon a time"], GenerateOptions(max_tokens=40))[0].text

Prompts of a call run as one batch and each gets the text it would get alone. A model that was trained to
write a target from a source (s2s, prefix, mt, dae) takes the source as its prompt. One call at a time: an
engine is not meant to be used by two threads at once (`serve` puts a queue before it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.infer.beam import Hypothesis, beam_search
from mainspring.infer.completion import Completion, Generation, Piece, collect
from mainspring.infer.decode import Row, decode
from mainspring.infer.layout import Layout, continuing
from mainspring.infer.load import load
from mainspring.infer.options import GenerateOptions
from mainspring.infer.prepared import Prepared
from mainspring.infer.runner import CachedRunner, PlainRunner, Runner, takes_cache
from mainspring.infer.speculative import check_draft, speculate
from mainspring.infer.stopping import find_stop
from mainspring.infer.text_stream import TextStream
from mainspring.infer.writer import Writer, chosen_logits
from mainspring.nn.transformer import Transformer
from mainspring.text.tokenizer import Tokenizer

Prompt = str | Sequence[int]
"""Text, or tokens."""


class Engine:
    """Writes text after prompts, with a causal language model or one that writes targets from sources."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, *, name: str = "model", layout: Layout | None = None
    ) -> None:
        """`model` is put into evaluation mode; `name` is what the model is called in listings; `layout` is
        how it reads prompts (None: it continues them)."""
        self.layout = layout or continuing(tokenizer)
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.vocabulary = min(model.config.vocab_size, tokenizer.vocab_size)
        """Tokens that may be generated."""
        absolute = any(position.kind == "absolute" for position in model.config.positions)
        self.max_positions: int | None = model.config.max_positions if absolute else None
        """Tokens of prompt and completion together, at most; None: not limited by the model."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        dtype: Literal["fp32", "bf16"] = "fp32",
        *,
        direction: str | None = None,
    ) -> Engine:
        """Load a run directory (its newest checkpoint), one checkpoint, or an exported model.

        Args:
            path: where it is.
            device: where to put it.
            dtype: precision to put it in.
            direction: which of several directions of pairs ("en-de") a model writes that is told languages.

        Raises:
            UsageError: nothing loadable is at `path` (the message says what was looked for), or the model is
                not trained to write text, or the device is not there, or there is no such direction.
        """
        loaded = load(path, device, dtype, direction)
        return cls(loaded.model, loaded.tokenizer, name=loaded.name, layout=loaded.layout)

    def generate(self, prompts: Sequence[Prompt], options: GenerateOptions | None = None) -> list[Completion]:
        """Continue every prompt; ordered by prompt, then by index (`options.n` completions each).

        Raises:
            UsageError: a prompt is longer than the model's positions, or has tokens that the model does not
                know.
        """
        return collect(self.start(prompts, options))

    def stream(self, prompt: Prompt, options: GenerateOptions | None = None) -> Iterator[Piece]:
        """Continue one prompt and yield its text as it comes; closing the iterator ends the generation.

        Beam search knows its text only at the end and yields it then.

        Raises:
            UsageError: as `generate`, before the first piece.
        """
        return self.start([prompt], options).pieces

    def start(self, prompts: Sequence[Prompt], options: GenerateOptions | None = None) -> Generation:
        """Check and tokenise prompts; nothing is computed until the pieces are asked for.

        Raises:
            UsageError: as `generate`.
        """
        prepared = self.prepare(prompts, options)
        return Generation(prepared.prompt_tokens, self.pieces(prepared))

    def prepare(self, prompts: Sequence[Prompt], options: GenerateOptions | None = None) -> Prepared:
        """Check and tokenise prompts. May be called from any thread.

        Raises:
            UsageError: as `generate`.
        """
        options = options or GenerateOptions()
        if isinstance(prompts, str):
            raise UsageError("prompts is a string; give a list of prompts")
        if options.num_beams > self.vocabulary:
            raise UsageError(
                f"num_beams = {options.num_beams}: the vocabulary has {self.vocabulary} tokens; "
                f"use {self.vocabulary} beams or fewer"
            )
        if options.echo and options.logprobs is not None and not self.layout.continues:
            raise UsageError(
                "echo with logprobs reports the prompt's own log-probabilities; this model reads prompts as "
                "sources and has none: leave out one of the two"
            )
        if options.draft is not None:
            check_draft(self, options.draft, options)
        rows = [self._tokens(k, prompt) for k, prompt in enumerate(prompts)]
        return Prepared(
            tuple(p if isinstance(p, str) else self.tokenizer.decode(list(p)) for p in prompts),
            tuple(tuple(row) for row in rows),
            tuple(self._limit(row, options) for row in rows),
            options,
        )

    def _tokens(self, number: int, prompt: Prompt) -> list[int]:
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        where = f"prompt {number}"
        if not tokens:
            if not self.layout.continues:
                raise UsageError(f"{where} is empty; give a source of one character or more")
            if self.tokenizer.eos is None:
                raise UsageError(
                    f"{where} is empty and the tokenizer has no end-of-text token to begin from; "
                    "give a prompt of one character or more"
                )
            tokens = [self.tokenizer.eos]
        wrong = next((t for t in tokens if not 0 <= t < self.vocabulary), None)
        if wrong is not None:
            raise UsageError(
                f"{where}: token {wrong} is not in the vocabulary of {self.vocabulary} tokens "
                f"(0 to {self.vocabulary - 1})"
            )
        self._check_positions(where, tokens)
        return tokens

    def _check_positions(self, where: str, tokens: list[int]) -> None:
        if self.max_positions is None:
            return
        layout, positions = self.layout, self.max_positions
        both = "" if layout.encoder else " for prompt and completion together"
        around = layout.framed([]) + (0 if layout.encoder else len(layout.opening))
        most = positions - around - (0 if layout.encoder else 1)
        if len(tokens) > most:
            beside = f" and {around} around it" if around else ""
            raise UsageError(
                f"{where} has {len(tokens)} tokens{beside} and the model has {positions} positions{both}; "
                f"shorten it to {most} tokens or fewer"
            )

    def _runner(self, *, cached: bool, every: bool = False) -> Runner:
        kind = CachedRunner if cached and takes_cache(self.model) else PlainRunner
        return kind(self.model, self.vocabulary, self.layout, every=every)

    def writer(self, prepared: Prepared, prompt: int, index: int) -> Writer:
        """What makes text of the tokens of completion `index` of a prompt."""
        options = prepared.options
        return Writer(
            self.tokenizer,
            prompt,
            index,
            context=self.history(prepared, prompt),
            stops=options.stop,
            logprobs=options.logprobs,
            end=self.layout.end,
        )

    def history(self, prepared: Prepared, prompt: int) -> Sequence[int]:
        """The tokens that count as said before a completion of a prompt."""
        return prepared.prompts[prompt] if self.layout.continues else ()

    def pieces(self, prepared: Prepared) -> Iterator[Piece]:
        """Continue prompts by themselves, as one batch of rows that go in step."""
        texts, prompts, options = prepared.texts, [list(p) for p in prepared.prompts], prepared.options
        if not prompts:
            return
        if options.draft is not None:
            yield from speculate(self, options.draft, prepared)
            return
        limits = list(prepared.limits)
        histories = [self.history(prepared, p) for p in range(len(prompts))]
        writers = {
            (p, index): self.writer(prepared, p, index)
            for p in range(len(prompts))
            for index in range(options.n)
        }
        scores_prompt = options.echo and options.logprobs is not None
        runner = self._runner(cached=options.use_cache, every=scores_prompt)
        logits: list[Tensor] = []
        if scores_prompt or max(limits) > 0:
            logits = runner.prefill(prompts, max(limits))
        if options.echo:
            for (p, _), writer in writers.items():
                yield writer.echo(texts[p], prompts[p], logits[p] if scores_prompt else None)
        if max(limits) == 0:
            yield from (writer.close("length") for writer in writers.values())
            return
        first = chosen_logits(logits)
        del logits
        if options.num_beams > 1:
            yield from self._beams(runner, prompts, histories, first, limits, writers, options)
        else:
            yield from self._rows(runner, histories, first, limits, writers, options)

    def _rows(
        self,
        runner: Runner,
        histories: Sequence[Sequence[int]],
        first: Tensor,
        limits: list[int],
        writers: dict[tuple[int, int], Writer],
        options: GenerateOptions,
    ) -> Iterator[Piece]:
        rows = [Row(prompt=p, index=index, limit=limits[p]) for p, index in writers]
        for choices in decode(runner, histories, first, rows, options, self.layout.end):
            for choice in choices:
                row = choice.row
                writer = writers[row.prompt, row.index]
                piece = writer.write(choice.token, choice.logits, last=row.done)
                row.done = row.done or writer.stopped
                yield piece

    def _beams(
        self,
        runner: Runner,
        prompts: list[list[int]],
        histories: Sequence[Sequence[int]],
        first: Tensor,
        limits: list[int],
        writers: dict[tuple[int, int], Writer],
        options: GenerateOptions,
    ) -> Iterator[Piece]:
        search = beam_search(
            runner,
            histories,
            first,
            limits,
            options,
            self.layout.end,
            lambda tokens: self._stops(tokens, options.stop),
        )
        searching = set(range(len(prompts)))
        for done in search:
            for p, hypotheses in done.items():
                for index, hypothesis in enumerate(hypotheses[: options.n]):
                    yield from self._write(writers[p, index], prompts[p], hypothesis, options)
            searching -= done.keys()
            if searching:
                # An empty piece a step lets whoever reads end the search between two steps.
                yield Piece(min(searching), 0, "", tokens=0)

    def _write(
        self, writer: Writer, prompt: list[int], hypothesis: Hypothesis, options: GenerateOptions
    ) -> Iterator[Piece]:
        """The pieces of a finished hypothesis; its log-probabilities come from reading it once more."""
        tokens = hypothesis.tokens
        at: Sequence[Tensor | None] = [None] * len(tokens)
        if options.logprobs is not None:
            runner = self._runner(cached=True)
            at = [runner.prefill([prompt], len(tokens))[0][0]]
            at += [runner.step([token])[0] for token in tokens[:-1]]
        for k, (token, logits) in enumerate(zip(tokens, at, strict=True)):
            piece = writer.write(token, logits, last=k == len(tokens) - 1)
            yield piece if piece.finish is None else replace(piece, score=hypothesis.score)

    def _stops(self, tokens: Sequence[int], stops: tuple[str, ...]) -> bool:
        """Whether a stop string is in the text of the last of `tokens`: each token has one byte or more."""
        if not stops:
            return False
        reach = max(len(stop.encode()) for stop in stops) + 8
        stream = TextStream(self.tokenizer)
        text = "".join(stream.push(token) for token in tokens[-reach:]) + stream.finish()
        return find_stop(text, stops) is not None

    def _limit(self, prompt: list[int], options: GenerateOptions) -> int:
        if self.max_positions is None:
            return options.max_tokens
        taken = self.layout.given(prompt) + len(self.layout.opening)
        return min(options.max_tokens, self.max_positions - taken)
