"""The whole way from text to a model that answers, on this machine, in minutes: six steps, each resumable."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

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
from mainspring.recipes.report import write_report
from mainspring.train.checkpoint import latest, load_model_state
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
MINUTES = 3.5
"""Time that training may take, at the pace of a pilot run."""
LEAST_STEPS = 20
PILOT_STEPS = 8
INTERRUPTED = (130, 143)
"""Exit codes of a run that a signal ended and that has saved."""
SUMMARY = "summary.json"
"""File of a run that says how long each step took, and what reloading showed."""


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
    report: Path | None = None


def run(
    out_dir: str | Path,
    *,
    overrides: Iterable[str] = (),
    steps: int | None = None,
    corpus: Corpus | None = None,
    minutes: float = MINUTES,
    prompts: Iterable[str] = PROMPTS,
    tell: news.Listener = lambda _: None,
) -> Summary:
    """Build the corpus, plan, train on two processes, evaluate, reload, complete prompts, report.

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
        tell: is told the news.

    Raises:
        UsageError: the run directory holds a run of another recipe, or the plan does not fit this machine.
        RunFault: training failed, or the reloaded model is not the trained one.
    """
    require("matplotlib", "plot")  # now, not after minutes of training
    return _Quickstart(Path(out_dir), tell).run(
        list(overrides), steps, corpus or Corpus(), minutes, tuple(prompts)
    )


class _Quickstart:
    def __init__(self, out_dir: Path, tell: news.Listener) -> None:
        self.data_dir = out_dir / "data"
        self.tell = tell
        self.summary = Summary(Run(out_dir))
        self.record = self.summary.run.dir / SUMMARY
        self._done_before = False
        if self.record.is_file():
            self.summary.seconds = json.loads(self.record.read_text(encoding="utf-8"))["seconds"]

    def run(
        self,
        overrides: list[str],
        steps: int | None,
        corpus: Corpus,
        minutes: float,
        prompts: tuple[str, ...],
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
        with self._stage("report"):
            self._keep()
            summary.report = write_report(work.dir)
            self.tell(news.ReportWritten(str(summary.report)))
        return summary

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        """Announce a step, and note how long it took, unless it had been done before."""
        self.tell(news.StageBegan(stage, news.STAGES.index(stage) + 1))
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
        self.summary.run.write_json(self.record, {"seconds": self.summary.seconds, "reload": proof})

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


def _with_train(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    return recipe.replace(train={**recipe.train.model_dump(mode="json"), **changes})
