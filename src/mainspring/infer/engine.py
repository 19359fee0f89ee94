"""Engine: a model, its tokenizer, and what it can do: continue text, or read it.

    engine = Engine.load("runs/quickstart")
    engine.generate(["Once upon a time"], GenerateOptions(max_tokens=40))[0].text

    engine = Engine.load("models/minilm")
    engine.embed(["Once upon a time"]).vectors

Prompts of a call run as one batch and each gets the text it would get alone. A model that was trained to
write a target from a source (s2s, prefix, mt, dae) takes the source as its prompt. One call at a time: an
engine is not meant to be used by two threads at once (`serve` puts a queue before it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mainspring.errors import UsageError
from mainspring.finetune.pooling import Pooling
from mainspring.infer.ahead import export_compiled
from mainspring.infer.answers import Answer, Classification, Embeddings, Tags
from mainspring.infer.beam import Hypothesis, beam_search
from mainspring.infer.compiled import StaticRunner, Step, compile_encoder, compile_step
from mainspring.infer.completion import Completion, Generation, Piece, collect
from mainspring.infer.decode import Row, decode
from mainspring.infer.layout import Layout, continuing
from mainspring.infer.load import Equipment, Network
from mainspring.infer.opening import open_path
from mainspring.infer.options import GenerateOptions
from mainspring.infer.precision import PRECISIONS
from mainspring.infer.prepared import Prepared
from mainspring.infer.runner import CachedRunner, PlainRunner, Runner, takes_cache
from mainspring.infer.self_check import NEW, SelfCheck, check_reader, check_writer, probes
from mainspring.infer.speculative import check_draft, speculate
from mainspring.infer.stopping import find_stop
from mainspring.infer.tasks import EncoderTasks
from mainspring.infer.text_stream import TextStream
from mainspring.infer.writer import Writer, chosen_logits
from mainspring.nn.transformer import Transformer
from mainspring.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from mainspring.parallel import Plan

Prompt = str | Sequence[int]
"""Text, or tokens."""


class Engine:
    """Writes text after prompts or from sources; or embeds texts, classifies them, finds things in them."""

    def __init__(
        self,
        model: Network,
        tokenizer: Tokenizer,
        *,
        name: str = "model",
        layout: Layout | None = None,
        refusal: str | None = None,
        causal: bool | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Put a model to use.

        Args:
            model: is put into evaluation mode.
            tokenizer: its tokenizer.
            name: what the model is called in listings.
            layout: how it reads prompts (None: it continues them).
            refusal: why it does not write text (None: it does).
            causal: whether each token sees those before it alone, where texts are embedded (None: if it
                continues them).
            notes: what whoever runs the model should know.
        """
        self.layout = layout or continuing(tokenizer)
        self.tokenizer, self.name, self.notes = tokenizer, name, tuple(notes)
        self.network = model.eval()
        """The whole model, with a task's head."""
        self.model = model if isinstance(model, Transformer) else model.encoder
        self.refusal = (
            refusal if isinstance(model, Transformer) else refusal or f"{name} has no head that writes"
        )
        config = self.model.config
        causal = self.writes and self.layout.continues if causal is None else causal
        self.tasks = None if config.is_encoder_decoder else EncoderTasks(model, tokenizer, causal=causal)
        """What it does with texts beside writing; None: nothing."""
        self.vocabulary = min(config.vocab_size, tokenizer.vocab_size)
        """Tokens that may be generated."""
        limited = config.absolute is not None or config.sparse is not None
        self.max_positions: int | None = config.max_positions if limited else None
        """Tokens of prompt and completion together, at most; None: not limited by the model."""
        self.precision = "fp32"
        """What it was loaded in."""
        self.checked: SelfCheck | None = None
        """What the self-check found; None: none was made."""
        self._step: Step | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        *,
        direction: str | None = None,
        plan: Plan | None = None,
        self_check: bool = False,
        pack: bool = False,
        pack_folder: str | Path | None = None,
        compiled: bool = False,
    ) -> Engine:
        """Load a run directory (its newest checkpoint), one checkpoint, a task model, an embedder, or an
        exported model; from packed weights, where they are there and up to date.

        Args:
            path: where it is.
            device: where to put it.
            precision: what to compute in (`infer.precision`).
            direction: which of several directions of pairs ("en-de") a model writes that is told languages.
            plan: cut the model over `plan.tensor` ranks, all of which make this call in a process group.
            self_check: compare with the plain module in fp32 (`infer.self_check`), which is loaded for that
                time; the result is `checked`.
            pack: write packed weights where there are none that are up to date (`infer.pack`).
            pack_folder: where they are (None: in the model's folder).
            compiled: compile what runs most (`infer.compiled`) when it is first called, which takes from
                seconds to a minute; a package that was compiled ahead (`compile_to`) is, without waiting.

        Raises:
            UsageError: nothing loadable is at `path` (the message says what was looked for), or the device is
                not there, or there is no such precision or direction, or the plan cannot be carried out.
            SelfCheckError: the self-check did not pass.
        """
        opened = open_path(
            path, device, precision, direction=direction, plan=plan, pack=pack, folder=pack_folder
        )
        equipment = opened.equipment
        engine = cls(
            opened.network,
            equipment.tokenizer,
            name=equipment.name,
            layout=equipment.layout,
            refusal=equipment.refusal,
            causal=equipment.causal,
            notes=opened.notes,
        )
        engine.precision, engine._step = opened.precision, opened.step
        if engine.tasks is not None and opened.forward is not None:
            engine.tasks.read_with(opened.forward)
        if compiled:
            engine.compile()
        if self_check:
            engine.checked = engine.check_against(opened.plain(), PRECISIONS[opened.precision].tolerance)
            engine.checked.require(f"{engine.name} in {opened.precision}")
        return engine

    def compile(self) -> None:
        """Compile what runs most: a step of decoding, or the encoder. The first calls wait for it.

        Raises:
            UsageError: the model has parts that cannot be compiled.
        """
        if self.writes:
            self._step = compile_step(self.model)
        else:
            tasks = self._tasks()
            tasks.read_with(compile_encoder(self.model, causal=tasks.reader.causal))

    def check_against(self, plain: Network, tolerance: float) -> SelfCheck:
        """Compare what this engine computes with what a plain network of the same weights does.

        Args:
            plain: the module as it is, in fp32; may be changed.
            tolerance: greatest difference, in standard deviations of what it gives.
        """
        plain, rows = plain.eval(), probes(self.vocabulary, self.max_positions, NEW + 2)
        if self.writes:
            reference = Engine(plain, self.tokenizer, layout=self.layout)
            runners = reference._runner(cached=False), self._runner(cached=True)
            return check_writer(*runners, rows, NEW, tolerance)
        return check_reader(plain, self.network, self._tasks().reader, rows, tolerance)

    def compile_to(self, path: str | Path, *, steps: Sequence[tuple[int, int]] = ((1, 256),)) -> Path:
        """Compile ahead of time into a folder that `Engine.load` opens at once (`infer.ahead`).

        Args:
            path: the folder, made where absent.
            steps: of a model that writes, rows and slots (tokens of prompt and completion) to compile for,
                each a power of two; other batches run uncompiled.

        Raises:
            UsageError: there is no C++ compiler, or the model has parts that cannot be compiled, or is not
                on the CPU.
        """
        causal = self.tasks is not None and self.tasks.reader.causal
        layout = self.layout if self.writes else None
        equipment = Equipment(self.tokenizer, self.name, layout, self.refusal, causal)
        return export_compiled(self.network, equipment, self.precision, path, steps=steps)

    @property
    def writes(self) -> bool:
        """Whether the model writes text."""
        return self.refusal is None

    def embed(
        self, texts: Sequence[str], *, pooling: Pooling | None = None, normalize: bool | None = None
    ) -> Embeddings:
        """A vector of each text; see `EncoderTasks.embed`.

        Raises:
            UsageError: the model has an encoder and a decoder, or pooling of its own that cannot be changed.
        """
        return self._tasks().embed(texts, pooling=pooling, normalize=normalize)

    def classify(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Classification]:
        """Classes of each text, or pair of texts.

        Raises:
            UsageError: the model has no head for that.
        """
        return self._tasks().classify(texts)

    def score(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[float]:
        """One number of each text or pair: how well a passage answers a question, say.

        Raises:
            UsageError: the model has no head for that.
        """
        return self._tasks().score(texts)

    def tag(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> list[Tags]:
        """A tag of every word of each text, which may be given as words.

        Raises:
            UsageError: the model has no head for that.
        """
        return self._tasks().tag(texts)

    def span(
        self, questions: Sequence[tuple[str, str]], *, no_answer: bool = False, max_answer_tokens: int = 30
    ) -> list[Answer]:
        """The answer to each (question, context), verbatim; see `EncoderTasks.span`.

        Raises:
            UsageError: the model has no head for that.
        """
        return self._tasks().span(questions, no_answer=no_answer, max_answer_tokens=max_answer_tokens)

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
        self.check_writes()
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

    def check_writes(self) -> None:
        """Raises UsageError with the reason where the model does not write text."""
        if self.refusal is not None:
            raise UsageError(self.refusal)

    def _tasks(self) -> EncoderTasks:
        if self.tasks is None:
            config = self.model.config
            raise UsageError(
                f"{self.name} writes from sources ({config.encoder_layers} encoder and "
                f"{config.decoder_layers} decoder layers); embeddings, classes, tags and spans are read from "
                f"a single stack"
            )
        return self.tasks

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
        if cached and self._step is not None:
            return StaticRunner(self.model, self._step, self.vocabulary, self.layout, every=every)
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
