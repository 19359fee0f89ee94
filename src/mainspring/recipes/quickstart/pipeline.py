"""The whole way from text to a model that answers and searches, in minutes on this machine, step by step.

A quickstart that was stopped goes on at the step where it was.

Products stand above recipes: what searches is given by whoever starts the quickstart (`Searching`).
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

from mainspring.data.dataset import TokenData
from mainspring.errors import CheckpointError, RunFault, UsageError, require
from mainspring.evaluate.comparison import Comparison, compare
from mainspring.evaluate.probe import Agreement, verify
from mainspring.infer.engine import Engine
from mainspring.infer.options import GenerateOptions
from mainspring.models import resolve
from mainspring.planner.processor import multiplies_bf16
from mainspring.recipes.catalogue import load
from mainspring.recipes.differences import differences
from mainspring.recipes.forecast import forecast
from mainspring.recipes.quickstart import news
from mainspring.recipes.quickstart.corpus import Corpus, prepare
from mainspring.recipes.quickstart.specialise import (
    Pairs,
    Quantised,
    Retrieval,
    Specialised,
    held_apart,
    quantise,
    specialise,
)
from mainspring.recipes.report import write_report
from mainspring.train.checkpoint import latest, load_model_state
from mainspring.train.checkpoint.manifest import NAME as MANIFEST
from mainspring.train.checkpoint.manifest import Manifest
from mainspring.train.launch import launch
from mainspring.train.recipe import Recipe
from mainspring.train.run import Run
from mainspring.train.sinks import read
from mainspring.train.source import checkpoint_of

PROMPTS = (
    "Return a new array of the given shape and type,",
    "This module provides",
    "All human beings are born free and equal in dignity and",
)
"""What the trained model continues."""
MINUTES = 2.7
"""Time that training may take, at the pace of a pilot run."""
LEAST_STEPS = 20
PILOT_STEPS = 8
INTERRUPTED = (130, 143)
"""Exit codes of a run that a signal ended and that has saved."""
SUMMARY = "summary.json"
"""File of a run that says how long each step took, and what reloading showed."""
ENCODER, NARROW_ENCODER, INDEX = "encoder", "encoder-int8", "search"
"""Folders of a run: the encoder made of its model, the same in int8, the index that it reads."""
MEASURED = "specialised.json"
"""File beside an encoder: how well it finds."""


class Searching(Protocol):
    """Searches with an encoder, as a product does."""

    def __call__(self, encoder: Path, index: Path, tell: news.Listener) -> list[news.Answered]:
        """Index the installed documentation and answer some queries.

        Args:
            encoder: folder of the encoder.
            index: folder of the index; one that is there is gone on with.
            tell: is told `news.Indexed` and each `news.Answered`.
        """
        ...


@dataclass
class Summary:
    """How a quickstart went."""

    run: Run
    status: Literal["finished", "interrupted"] = "finished"
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of each step."""
    comparison: Comparison | None = None
    agreement: Agreement | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    specialised: Specialised | None = None
    quantised: Quantised | None = None
    answered: list[news.Answered] = field(default_factory=list)
    report: Path | None = None


def forget(out_dir: str | Path) -> None:
    """Delete the encoders and the index that a quickstart has made."""
    for name in (ENCODER, NARROW_ENCODER, INDEX):
        shutil.rmtree(Path(out_dir) / name, ignore_errors=True)


def run(
    out_dir: str | Path,
    *,
    overrides: Iterable[str] = (),
    steps: int | None = None,
    corpus: Corpus | None = None,
    minutes: float = MINUTES,
    prompts: Iterable[str] = PROMPTS,
    pairs: Pairs | None = None,
    search: Searching | None = None,
    tell: news.Listener = lambda _: None,
) -> Summary:
    """Build the corpus, plan, train on two processes, evaluate, reload, complete prompts; make an encoder for
    search of the model, in int8, and search with it; report.

    A second call goes on where the first stopped, and where all is done only looks again at the result.

    Args:
        out_dir: run directory; the data goes to `out_dir`/data.
        overrides: of the recipe `quickstart`.
        steps: of training; None: the recipe's, or fewer where a pilot run says that they would take longer
            than
            `minutes`.
        corpus: what to learn from; None: the embedded corpus.
        minutes: time that training may take.
        prompts: what the model continues in the end.
        pairs: what the encoder learns from; None: the installed documentation.
        search: searches with the encoder; None: nothing does.
        tell: is told the news.

    Raises:
        UsageError: the run directory holds a run of another recipe, or the plan does not fit this machine.
        RunFault: training failed, or the reloaded model is not the trained one.
    """
    require("matplotlib", "plot")  # now, not after minutes of training
    return _Quickstart(Path(out_dir), search, tell).run(
        list(overrides), steps, corpus or Corpus(), minutes, tuple(prompts), pairs or Pairs()
    )


class _Quickstart:
    def __init__(self, out_dir: Path, search: Searching | None, tell: news.Listener) -> None:
        self.data_dir = out_dir / "data"
        self.tell, self.search = tell, search
        self.stages = [stage for stage in news.STAGES if stage != "search" or search is not None]
        self.summary = Summary(Run(out_dir))
        self.record = self.summary.run.dir / SUMMARY
        self._done_before = False
        self._held: tuple[list[tuple[str, str]], list[tuple[str, str]]] | None = None
        if self.record.is_file():
            self.summary.seconds = json.loads(self.record.read_text(encoding="utf-8"))["seconds"]

    def run(
        self,
        overrides: list[str],
        steps: int | None,
        corpus: Corpus,
        minutes: float,
        prompts: tuple[str, ...],
        pairs: Pairs,
    ) -> Summary:
        summary, work = self.summary, self.summary.run
        length = [f"train.steps={steps}"] if steps else []
        own = [*overrides, f"data.path={json.dumps(str(self.data_dir))}", *length]
        # Emulated bf16 takes ten times as long as fp32.
        asked = load("quickstart", own if multiplies_bf16() else ["train.precision=fp32", *own])
        known = self._known(asked, any_length=steps is None)
        with self._stage("corpus"):
            data = self._corpus(corpus)
        with self._stage("plan"):
            plan = forecast(known or asked)
            self.tell(news.PlanReady(plan))
        with self._stage("train"):
            recipe, summary.status = self._train(plan.recipe, None if known or steps else minutes)
        if summary.status == "interrupted":
            return summary
        engine = Engine.load(work.dir)
        with self._stage("evaluate"):
            summary.comparison = self._compare(engine, data, recipe)
        with self._stage("reload"):
            summary.agreement = self._reload(recipe)
            self._complete(engine, prompts)
        with self._stage("specialise"):
            summary.specialised = self._specialise(pairs)
        with self._stage("quantise"):
            summary.quantised = self._quantise(pairs)
        if self.search is not None:
            with self._stage("search"):
                self._done_before = (work.dir / INDEX).is_dir()
                summary.answered = self.search(work.dir / NARROW_ENCODER, work.dir / INDEX, self.tell)
        with self._stage("report"):
            self._keep()
            summary.report = write_report(work.dir)
            self.tell(news.ReportWritten(str(summary.report)))
        return summary

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        """Announce a step, and note how long it took, unless it had been done before."""
        self.tell(news.StageBegan(stage, self.stages.index(stage) + 1, len(self.stages)))
        self._done_before = False
        began = time.perf_counter()
        yield
        if not (self._done_before and stage in self.summary.seconds):
            self.summary.seconds[stage] = time.perf_counter() - began
        self._keep()

    def _keep(self) -> None:
        """Write down how far it has come."""
        proof = asdict(self.summary.agreement) if self.summary.agreement else None
        self.record.parent.mkdir(parents=True, exist_ok=True)
        made = {
            "specialised": self.summary.specialised and asdict(self.summary.specialised),
            "quantised": self.summary.quantised and asdict(self.summary.quantised),
            "answered": [asdict(answer) for answer in self.summary.answered],
        }
        told = {"seconds": self.summary.seconds, "reload": proof, **made}
        self.summary.run.write_json(self.record, told)

    def _corpus(self, corpus: Corpus) -> TokenData:
        report = prepare(corpus, self.data_dir, self.tell)
        self._done_before = report is None
        data = TokenData.open(self.data_dir)
        sizes = [sum(s.tokens for s in data.split(split).values()) for split in ("train", "holdout")]
        self.tell(news.CorpusReady(str(self.data_dir), report, *sizes))
        return data

    def _known(self, asked: Recipe, *, any_length: bool) -> Recipe | None:
        """The recipe of the run that is there, if it is the one asked for."""
        work = self.summary.run
        if not work.recipe.is_file():
            return None
        known = work.read_recipe()
        found = [d for d in differences(known, asked) if not (any_length and d[0] == "train.steps")]
        if found:
            lines = "; ".join(f"{name} is {before}, you ask for {now}" for name, before, now in found)
            raise UsageError(
                f"{work.dir} holds a quickstart with other settings: {lines}. Begin anew with --fresh, or "
                "choose another --out"
            )
        return known

    def _train(
        self, recipe: Recipe, minutes: float | None
    ) -> tuple[Recipe, Literal["finished", "interrupted"]]:
        """Train what is left to train: the recipe, or, where `minutes` are given, as much of it as they
        allow."""
        work = self.summary.run
        newest = latest(work.checkpoints)
        if newest is not None and Manifest.read(newest).step >= recipe.train.steps:
            self._done_before = True
            self.tell(news.TrainingSkipped(Manifest.read(newest).step))
            return recipe, "finished"
        work.dir.mkdir(parents=True, exist_ok=True)
        if minutes is not None:
            recipe = self._fit(recipe, minutes)
        work.write_recipe(recipe)
        code = launch(work.recipe, work.dir, recipe.plan.world)
        if code in INTERRUPTED:
            return recipe, "interrupted"
        newest = latest(work.checkpoints)
        if code or newest is None or Manifest.read(newest).step < recipe.train.steps:
            raise RunFault(f"training ended with exit code {code}; the messages above say why")
        return recipe, "finished"

    def _fit(self, recipe: Recipe, minutes: float) -> Recipe:
        """A recipe of so many steps, at most its own, as the time allows at the pace of a pilot run."""
        with TemporaryDirectory(dir=self.summary.run.dir, prefix="pilot-") as folder:
            pilot = Run(Path(folder))
            short = {"steps": PILOT_STEPS, "checkpoint_every": 0, "eval_every": 0, "tensorboard": False}
            pilot.write_recipe(_with_train(recipe, short))
            code = launch(pilot.recipe, pilot.dir, recipe.plan.world, options=["--quiet"])
            seconds = [event["seconds"] for event in read(pilot.metrics) if event["event"] == "step_done"]
        if code in INTERRUPTED:
            raise KeyboardInterrupt
        if code or len(seconds) < PILOT_STEPS:
            raise RunFault(
                f"a pilot run of {PILOT_STEPS} steps ended with exit code {code}; see the messages above"
            )
        pace = statistics.median(seconds[2:])  # the first steps choose kernels and allocate
        steps = min(recipe.train.steps, max(LEAST_STEPS, int(minutes * 60 / pace)))
        self.tell(news.PilotDone(pace, steps, recipe.train.steps))
        return _with_train(recipe, {"steps": steps})

    def _compare(self, engine: Engine, data: TokenData, recipe: Recipe) -> Comparison:
        """Score the model and the baselines, unless the scores of this checkpoint are there."""
        work, checkpoint = checkpoint_of(self.summary.run.dir)
        if work.evaluation.is_file() and work.evaluation.stat().st_mtime > checkpoint.stat().st_mtime:
            self._done_before = True
            result = Comparison.from_dict(json.loads(work.evaluation.read_text(encoding="utf-8")))
        else:
            result = compare(engine, data, seq_len=recipe.data.seq_len)
            work.write_json(work.evaluation, result.as_dict())
        self.tell(news.Scored(result))
        return result

    def _reload(self, recipe: Recipe) -> Agreement:
        """Load the checkpoint once more from its files and compare logits with the trained model's."""
        work, checkpoint = checkpoint_of(self.summary.run.dir)
        config = resolve(recipe.model, TokenData.open(self.data_dir).vocab_size)
        agreement = verify(load_model_state(checkpoint), config, work)
        if not agreement.identical:
            raise CheckpointError(
                f"{checkpoint}: the reloaded model is not the trained one: of {agreement.logits:,} logits "
                "some differ, "
                f"by up to {agreement.largest_difference:g}"
            )
        self.tell(news.Reloaded(str(checkpoint), agreement))
        return agreement

    def _complete(self, engine: Engine, prompts: tuple[str, ...]) -> None:
        options = GenerateOptions(max_tokens=60, temperature=0.7, top_p=0.9, repetition_penalty=1.1, seed=1)
        for prompt, completion in zip(prompts, engine.generate(prompts, options), strict=True):
            self.summary.samples.append(
                {"prompt": prompt, "text": completion.text, "tokens": completion.tokens}
            )
            self.tell(news.Sampled(prompt, completion))
        work = self.summary.run
        work.write_json(work.samples, self.summary.samples)

    def _specialise(self, pairs: Pairs) -> Specialised:
        """Make an encoder of the model, unless the encoder of this checkpoint is there."""
        work, checkpoint = checkpoint_of(self.summary.run.dir)
        folder = work.dir / ENCODER
        values = _measured(folder, checkpoint / MANIFEST)
        if values is None:
            self._held = held_apart(pairs)
            found = specialise(work.dir, folder, *self._held)
            work.write_json(folder / MEASURED, asdict(found))
        else:
            self._done_before = True
            before, after = (Retrieval(**values[name]) for name in ("before", "after"))
            found = Specialised(values["learnt"], values["held_out"], before, after)
        self.tell(news.EncoderTrained(str(folder), found))
        return found

    def _quantise(self, pairs: Pairs) -> Quantised:
        """Narrow the encoder, unless that is done."""
        work = self.summary.run
        source, folder = work.dir / ENCODER, work.dir / NARROW_ENCODER
        values = _measured(folder, source / MEASURED)
        if values is None:
            held = (self._held or held_apart(pairs))[1]
            shutil.rmtree(work.dir / INDEX, ignore_errors=True)  # it has vectors of another encoder
            found = quantise(source, folder, held)
            work.write_json(folder / MEASURED, asdict(found))
        else:
            self._done_before = True
            found = Quantised(**{**values, "after": Retrieval(**values["after"])})
        self.tell(news.EncoderNarrowed(str(folder), found))
        return found


def _measured(folder: Path, source: Path) -> dict[str, Any] | None:
    """What was measured of an encoder, where it is newer than what it was made of."""
    file = folder / MEASURED
    if not file.is_file() or file.stat().st_mtime < source.stat().st_mtime:
        return None
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _with_train(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    return recipe.replace(train={**recipe.train.model_dump(mode="json"), **changes})
