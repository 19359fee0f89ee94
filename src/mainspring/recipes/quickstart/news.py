"""What the quickstart tells while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mainspring.data.build import BuildReport, Progress
from mainspring.evaluate.comparison import Comparison
from mainspring.evaluate.probe import Agreement
from mainspring.infer.completion import Completion
from mainspring.recipes.forecast import Forecast
from mainspring.recipes.quickstart.specialise import Quantised, Specialised

STAGES = ("corpus", "plan", "train", "evaluate", "reload", "specialise", "quantise", "search", "report")
"""The steps in order; `search` where something is given that searches."""


@dataclass(frozen=True)
class StageBegan:
    """A step begins."""

    stage: str
    """One of `STAGES`."""
    number: int
    """Its place, from 1."""
    total: int
    """Of how many."""


@dataclass(frozen=True)
class CorpusReady:
    """Token shards and tokenizer are there."""

    directory: str
    report: BuildReport | None
    """What was built; None where it was there already."""
    train_tokens: int
    holdout_tokens: int


@dataclass(frozen=True)
class PlanReady:
    """What training will take."""

    forecast: Forecast


@dataclass(frozen=True)
class PilotDone:
    """A few steps were tried, to see how many the time allows."""

    seconds_per_step: float
    steps: int
    """Steps that will be done."""
    wanted: int
    """Steps of the recipe."""


@dataclass(frozen=True)
class TrainingSkipped:
    """The run has all its steps already."""

    step: int


@dataclass(frozen=True)
class Scored:
    """The model beside the baselines."""

    comparison: Comparison


@dataclass(frozen=True)
class Reloaded:
    """The checkpoint was loaded, and its logits compared with the trained model's."""

    checkpoint: str
    agreement: Agreement


@dataclass(frozen=True)
class Sampled:
    """A prompt was completed."""

    prompt: str
    completion: Completion


@dataclass(frozen=True)
class EncoderTrained:
    """The model has a layer over it that makes an encoder of it."""

    folder: str
    specialised: Specialised


@dataclass(frozen=True)
class EncoderNarrowed:
    """The encoder is in a narrow format."""

    folder: str
    quantised: Quantised


@dataclass(frozen=True)
class Indexed:
    """The installed documentation is indexed."""

    folder: str
    documents: int
    passages: int
    seconds: float
    """Time that took; 0 where it was there already."""
    ranker: str
    """What ranking goes by, in words."""


@dataclass(frozen=True)
class Found:
    """A document of those that a query found."""

    title: str
    relevance: float
    """0 to 4."""
    caption: str
    """Why, in its own words."""


@dataclass(frozen=True)
class Answered:
    """A query was answered."""

    query: str
    found: tuple[Found, ...]
    """The best first."""
    milliseconds: float


@dataclass(frozen=True)
class ReportWritten:
    """The report is there."""

    path: str


News = (
    StageBegan
    | CorpusReady
    | PlanReady
    | PilotDone
    | TrainingSkipped
    | Scored
    | Reloaded
    | Sampled
    | EncoderTrained
    | EncoderNarrowed
    | Indexed
    | Answered
    | ReportWritten
    | Progress
)
"""Anything that is told."""

Listener = Callable[[News], None]
"""Takes the news in order."""
