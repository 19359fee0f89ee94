"""What each layer of a model loses in each format, and which formats fit a budget: measured, told, drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mainspring.compress import Choice, Measure, Option, choose, choose_greedily, open_subject, sensitivities
from mainspring.errors import UsageError, require
from mainspring.infer.quantized import PORTABLE, Kernels
from mainspring.numerics import format_named
from mainspring.objectives import Vocabulary
from mainspring.recipes.compression import Text
from mainspring.recipes.latency import Milliseconds

FORMATS = ("int8", "int4-g32", "int4", "msfp12", "mxfp4")
"""What is tried where nothing is said."""
TIMED_FORMATS = ("int8", "int4-g64")
"""The same, where times are measured."""


@dataclass(frozen=True)
class Report:
    """What was measured, and what it proposes."""

    kind: str
    """Of the loss: clm, mlm, or distance of a bare encoder's hidden states."""
    loss: float
    """Of the model as it is."""
    options: list[Option]
    proposal: Choice | None
    """Formats within the budget."""
    greedy: Choice | None
    """What the usual short cut would have proposed."""
    budget: float | None
    unit: str = "bytes"
    """Of costs and budget: bytes or milliseconds."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "loss": self.loss,
            "budget": self.budget,
            "unit": self.unit,
            "options": [asdict(option) for option in self.options],
            "proposal": None if self.proposal is None else asdict(self.proposal),
            "greedy": None if self.greedy is None else asdict(self.greedy),
        }


def report(
    path: str | Path,
    text: Text,
    *,
    formats: Sequence[str] = FORMATS,
    budget: float | None = None,
    rows: int | None = None,
    kernels: Kernels = PORTABLE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Try every format in every layer, alone, and choose formats within a budget.

    Args:
        path: a run, a checkpoint or an exported model.
        text: to measure the loss on.
        formats: to try.
        budget: most of what the layers may cost together (None: nothing is proposed).
        rows: costs are milliseconds of products with so many tokens at once (None: they are bytes).
        kernels: what multiplies, where times are measured.
        progress: is told trials done and their total.

    Raises:
        UsageError: no model is there, or nothing fits the budget.
    """
    subject = open_subject(path)
    vocabulary = Vocabulary.of_tokenizer(subject.tokenizer())
    measure = Measure(subject.model, text.batches(subject), causal=subject.causal, vocabulary=vocabulary)
    named = [format_named(name) for name in formats]
    if rows is None:
        options = sensitivities(subject.model, measure, named, progress=progress)
    else:
        timed = Milliseconds(subject.model, rows, kernels)
        options = sensitivities(subject.model, measure, named, cost=timed, progress=progress)
    chosen = None if budget is None else choose(options, budget)
    short = None if budget is None else choose_greedily(options, budget)
    unit = "bytes" if rows is None else "milliseconds"
    return Report(measure.kind, measure(subject.model), options, chosen, short, budget, unit)


def draw(found: Report, file: str | Path) -> None:
    """Draw the losses by layer and format, the proposal's marked, as a picture (SVG, PNG by its name).

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: it does not know this kind of picture.
    """
    require("matplotlib", "plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    layers = list(dict.fromkeys(option.layer for option in found.options))
    for form in dict.fromkeys(o.format for o in found.options if o.format != "fp32"):
        points = {o.layer: o.loss for o in found.options if o.format == form}
        axes.plot(range(len(layers)), [points[layer] for layer in layers], marker="o", label=form)
        chosen = {} if found.proposal is None else found.proposal.formats
        places = [place for place, layer in enumerate(layers) if chosen.get(layer) == form]
        heights = [points[layers[place]] for place in places]
        axes.scatter(places, heights, s=120, facecolors="none", edgecolors="black", zorder=3)
    axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right")
    axes.set_yscale("symlog", linthresh=1e-4)
    unit = "distance of hidden states" if found.kind == "distance" else "loss, nats a token"
    axes.set_ylabel(f"rise of the {unit}")
    axes.legend()
    try:
        figure.savefig(file)
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
