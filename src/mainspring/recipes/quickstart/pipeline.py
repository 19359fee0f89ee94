"""The whole way from text to a model that answers, on this machine, in minutes: six steps, each resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mainspring.data.dataset import TokenData
from mainspring.errors import CheckpointError, RunFault, UsageError, require
from mainspring.evaluate.comparison import Comparison, compare
from mainspring.evaluate.probe import Agreement, verify
from mainspring.infer.engine import Engine
from mainspring.infer.options import GenerateOptions
from mainspring.models import resolve
from mainspring.recipes.catalogue import load
from mainspring.recipes.differences import differences
from mainspring.recipes.exchange import checkpoint_of
from mainspring.recipes.forecast import Forecast, forecast
from mainspring.recipes.quickstart import news
from mainspring.recipes.quickstart.corpus import Corpus, prepare
from mainspring.recipes.report import write_report
from mainspring.train.checkpoint import latest, load_model_state
from mainspring.train.checkpoint.manifest import Manifest
from mainspring.train.launch import launch
from mainspring.train.recipe import Recipe
from mainspring.train.run import Run
from mainspring.train.sinks import read

PROMPTS = (
    "Return a new array of the given shape and type,",
    "This module provides",
    "All human beings are born free and equal in dignity and",
)
"""What the trained model continues."""
MINUTES = 4.0
"""Time that training may take, by forecast."""
LEAST_STEPS = 20
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
        steps: of training; None: the recipe's, or fewer where they would take longer than `minutes`.
        corpus: what to learn from; None: the embedded corpus.
        minutes: time that training may take, by forecast.
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
        asked = load("quickstart", [*overrides, f"data.path={json.dumps(str(self.data_dir))}", *length])
        known = self._known(asked, any_length=steps is None)
        with self._stage("corpus"):
            data = self._corpus(corpus)
        with self._stage("plan"):
            plan, shortened = self._plan(known or asked, None if known or steps else minutes)
            self.tell(news.PlanReady(plan, shortened))
        with self._stage("train"):
            summary.status = self._train(plan.recipe)
        if summary.status == "interrupted":
            return summary
        engine = Engine.load(work.dir)
        with self._stage("evaluate"):
            summary.comparison = self._compare(engine, data, plan.recipe)
        with self._stage("reload"):
            summary.agreement = self._reload(plan)
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

    def _plan(self, recipe: Recipe, minutes: float | None) -> tuple[Forecast, int | None]:
        """The forecast, of fewer steps where the recipe's would take too long; and the recipe's steps in
        that case."""
        plan = forecast(recipe)
        if minutes is None or plan.seconds <= minutes * 60:
            return plan, None
        fewer = max(LEAST_STEPS, int(minutes * 60 / plan.prepared.estimate.seconds_per_step))
        if fewer >= recipe.train.steps:
            return plan, None
        shorter = recipe.replace(train={**recipe.train.model_dump(mode="json"), "steps": fewer})
        return forecast(shorter, plan.machine), recipe.train.steps

    def _train(self, recipe: Recipe) -> Literal["finished", "interrupted"]:
        work = self.summary.run
        newest = latest(work.checkpoints)
        if newest is not None and Manifest.read(newest).step >= recipe.train.steps:
            self._done_before = True
            self.tell(news.TrainingSkipped(Manifest.read(newest).step))
            return "finished"
        work.dir.mkdir(parents=True, exist_ok=True)
        work.write_recipe(recipe)
        code = launch(work.recipe, work.dir, recipe.plan.world)
        ended = [event for event in read(work.metrics) if event["event"] == "run_ended"]
        if ended and ended[-1]["status"] == "interrupted":
            return "interrupted"
        newest = latest(work.checkpoints)
        if code or newest is None or Manifest.read(newest).step < recipe.train.steps:
            said = ended[-1]["message"] if ended else "it ended before its first step"
            raise RunFault(f"training failed with exit code {code}: {said or 'see the messages above'}")
        return "finished"

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

    def _reload(self, plan: Forecast) -> Agreement:
        """Load the checkpoint once more from its files and compare logits with the trained model's."""
        work, checkpoint = checkpoint_of(self.summary.run.dir)
        config = resolve(plan.recipe.model, TokenData.open(self.data_dir).vocab_size)
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
