"""Settings of a search reader's training."""

from __future__ import annotations

from pydantic import Field

from mainspring.config import Section
from mainspring.finetune.reader import ReaderConfig
from mainspring.optim.config import OptimConfig


class ExamplesConfig(Section):
    """How many examples of what."""

    boolq: int = Field(2500, ge=0)
    """Questions of BoolQ."""
    boolq_distractors: float = Field(0.3, ge=0, le=1)
    """Share of them that are also put beside a text that does not answer."""
    cloze: int = Field(1500, ge=0)
    """Questions made from statements of BoolQ's passages."""
    documentation: int = Field(150, ge=0)
    """Pairs of a first sentence and the rest, of the installed packages' documentation."""
    languages: tuple[str, ...] = ("en", "de", "es")
    """Of XQuAD, those that are learnt from; all twelve are reported."""
    xquad_passes: int = Field(1, ge=0)
    """Times that XQuAD's training articles are read."""


class TaskWeights(Section):
    """Weight of each task's loss."""

    relevance: float = Field(0.5, ge=0)
    verdict: float = Field(1.0, ge=0)
    span: float = Field(1.0, ge=0)
    highlight: float = Field(0.3, ge=0)


class HeadsRecipe(Section):
    """A run that trains heads for search."""

    reader: ReaderConfig = ReaderConfig()
    examples: ExamplesConfig = ExamplesConfig()
    loss: TaskWeights = TaskWeights()
    optim: OptimConfig = OptimConfig()
    batch_tokens: int = Field(2048, ge=256)
    """Tokens of a batch, questions and texts together."""
    clip: float = Field(1.0, gt=0)
    """Norm to which gradients are cut."""
    seed: int = Field(0, ge=0)
    """Of the examples that are drawn, their order and what is initialised."""
