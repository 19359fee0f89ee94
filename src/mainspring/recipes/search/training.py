"""Training of a search reader: the first layers once, then steps over what they gave; both can be
interrupted."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mainspring.config import to_toml
from mainspring.errors import ConfigError, NonFiniteError
from mainspring.finetune.reader import Labels, Reader, losses
from mainspring.finetune.text_reader import MOST_TEXT, TextReader, Tokens
from mainspring.nn.init import stable_seed
from mainspring.optim.build import build
from mainspring.optim.schedules import lr
from mainspring.recipes.search import cloze
from mainspring.recipes.search.examples import (
    NO_ANSWER,
    NOT_KNOWN,
    Example,
    boolq,
    documentation,
    learnt_from_xquad,
    with_distractors,
)
from mainspring.recipes.search.recipe import HeadsRecipe
from mainspring.recipes.search.saved import resume_training, save_training
from mainspring.recipes.search.states import StateCache
from mainspring.train.files import replace_file

SAVE_SECONDS = 30.0
"""A run that is killed loses no more than this."""
RECIPES = Path(__file__).parent
"""Folder of the recipes."""
RECIPE, STATE = "recipe.toml", "training.safetensors"
_AHEAD = 16


class Progress(NamedTuple):
    """How far a run has come."""

    stage: str
    """`reading` (the first layers) or `training`."""
    done: int
    """Tokens read, or steps."""
    total: int
    """How many there are."""
    rate: float
    """A second, in this process."""
    losses: dict[str, float]
    """Of training, each task's, averaged over about the last fifty steps."""

    @property
    def eta(self) -> float | None:
        """Seconds to the end of the stage."""
        return (self.total - self.done) / self.rate if self.rate else None


class Row(NamedTuple):
    """An example as numbers of rows of the cache, and its labels."""

    question: int
    text: int
    relevance: float
    verdict: float
    span: tuple[int, int]


def drawn(data: Path, recipe: HeadsRecipe) -> list[Example]:
    """The examples of a recipe, the same ones every time.

    Args:
        data: folder with `understanding/boolq` and `understanding/xquad`.
        recipe: how many of what.
    """
    wanted, rng = recipe.examples, random.Random(recipe.seed)
    questions = boolq(data, "train")
    rng.shuffle(questions)
    found = with_distractors(questions[: wanted.boolq], wanted.boolq_distractors, rng)
    found += cloze.made([e.text for e in questions[: wanted.boolq or None]], wanted.cloze, rng)
    if wanted.documentation:
        found += documentation(wanted.documentation, rng)
    for _ in range(wanted.xquad_passes):
        found += learnt_from_xquad(data, wanted.languages, rng)
    return found


def numbered(found: Sequence[Example], reader: TextReader) -> tuple[list[Row], list[list[int]]]:
    """Examples as rows, and the ids of each distinct question and window of a text.

    A text that is too long is read in the window in whose middle the answer is, or the first.
    """
    known: dict[tuple[int, ...], int] = {}
    windows: dict[str, list[Tokens]] = {}
    questions: dict[str, Tokens] = {}
    rows: list[Row] = []

    def number(tokens: Tokens) -> int:
        return known.setdefault(tuple(tokens.ids), len(known))

    for example in found:
        if example.text not in windows:
            windows[example.text] = reader.tokens(example.text, MOST_TEXT)
        if example.question not in questions:
            questions[example.question] = reader.question(example.question)
        window, span = _window(windows[example.text], example.answer)
        rows.append(
            Row(number(questions[example.question]), number(window), example.relevance, example.verdict, span)
        )
    return rows, [list(ids) for ids in known]


def order(rows: Sequence[Row], lengths: Sequence[int], most: int, seed: int) -> list[list[int]]:
    """Batches of rows of like length, in an order that depends on the seed alone.

    Args:
        rows: all rows.
        lengths: tokens of each row of the cache.
        most: tokens of a batch, padding included.
        seed: of the order.
    """
    rng = random.Random(seed)
    shuffled = list(range(len(rows)))
    rng.shuffle(shuffled)
    batches: list[list[int]] = []
    size = most // 32 * _AHEAD
    for at in range(0, len(shuffled), size):
        part = shuffled[at : at + size]
        widths = {i: lengths[rows[i].question] + lengths[rows[i].text] for i in part}
        batch: list[int] = []
        for i in sorted(part, key=lambda i: widths[i]):
            if batch and (len(batch) + 1) * widths[i] > most:
                batches.append(batch)
                batch = []
            batch.append(i)
        batches.append(batch)
    rng.shuffle(batches)
    return batches


def train(
    reader: TextReader,
    recipe: HeadsRecipe,
    data: Path,
    out: Path,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Train a reader in place, or go on where an earlier call in the same folder was stopped.

    Args:
        reader: over the encoder, with nothing learnt yet.
        recipe: the settings.
        data: folder with `understanding/boolq` and `understanding/xquad`.
        out: folder of the run: its recipe, what the first layers gave, and the state of training.
        progress: told after every batch.

    Raises:
        ConfigError: the folder holds a run of another recipe.
        DataError: the data are not there.
        NonFiniteError: the loss is no number any more.
    """
    settings = to_toml(recipe)
    out.mkdir(parents=True, exist_ok=True)
    if (out / RECIPE).exists() and (out / RECIPE).read_text(encoding="utf-8") != settings:
        raise ConfigError(f"{out}: holds a run of another recipe ({RECIPE}); give another folder")
    replace_file(out / RECIPE, settings.encode("utf-8"))
    rows, ids = numbered(drawn(data, recipe), reader)
    reader.reader.eval()
    cache = StateCache(out, reader.reader, ids, reader.pad)
    tell = _Teller(progress)
    cache.fill(lambda done, total: tell("reading", done, total, {}))
    _steps(
        reader.reader,
        recipe,
        rows,
        cache,
        order(rows, [len(r) for r in ids], recipe.batch_tokens, recipe.seed),
        out,
        tell,
    )


def _steps(
    model: Reader,
    recipe: HeadsRecipe,
    rows: Sequence[Row],
    cache: StateCache,
    batches: Sequence[Sequence[int]],
    out: Path,
    tell: _Teller,
) -> None:
    optimizer = build(model, recipe.optim)
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = recipe.loss.model_dump()
    average: dict[str, float] = {}
    start, saved = resume_training(out / STATE, model, optimizer), time.monotonic()
    model.train()
    for step, batch in enumerate(batches[start:], start):
        chosen = [rows[i] for i in batch]
        questions = cache.states([row.question for row in chosen])
        texts = cache.states([row.text for row in chosen])
        with torch.random.fork_rng(devices=[]):  # dropout is the step's own, however often a run was stopped
            torch.manual_seed(stable_seed(recipe.seed, step))
            reading = model(questions, texts)
        parts = losses(reading, labels(chosen))
        loss = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        if not bool(loss.isfinite()):
            raise NonFiniteError(
                f"step {step}: the loss is {float(loss.detach())}; a smaller rate helps: "
                f"optim.lr={recipe.optim.lr / 3:g}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = lr(step, len(batches), recipe.optim)
        optimizer.step()
        for name, value in parts.items():
            now = float(value.detach())
            average[name] = 0.98 * average.get(name, now) + 0.02 * now
        tell("training", step + 1, len(batches), average)
        if time.monotonic() - saved > SAVE_SECONDS or step + 1 == len(batches):
            save_training(out / STATE, model, optimizer, step + 1)
            saved = time.monotonic()
    model.eval()


def labels(rows: Sequence[Row]) -> Labels:
    """Labels of a batch."""
    return Labels(
        torch.tensor([row.relevance for row in rows]),
        torch.tensor([row.verdict for row in rows]),
        torch.tensor([row.span for row in rows]),
    )


def _window(windows: Sequence[Tokens], answer: tuple[int, int]) -> tuple[Tokens, tuple[int, int]]:
    """The window to read, and the places of the answer's first and last token (`Labels.spans`)."""
    if answer in (NO_ANSWER, NOT_KNOWN):
        return windows[0], answer
    best: tuple[int, Tokens, tuple[int, int]] | None = None
    for window in windows:
        inside = [
            place for place, (a, b) in enumerate(window.offsets[1:-1], 2) if a < answer[1] and b > answer[0]
        ]
        if not inside or window.offsets[inside[0] - 1][0] > answer[0]:
            continue
        last = window.offsets[inside[-1] - 1][1]
        if last < answer[1] and window is not windows[-1]:
            continue
        room = min(inside[0], len(window.ids) - inside[-1])
        if best is None or room > best[0]:
            best = room, window, (inside[0], inside[-1])
    return (windows[0], NOT_KNOWN) if best is None else best[1:]


class _Teller:
    """Tells of progress with the rate since a stage began in this process."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress = progress
        self._began: dict[str, tuple[float, int]] = {}

    def __call__(self, stage: str, done: int, total: int, average: dict[str, float]) -> None:
        now = time.monotonic()
        since, first = self._began.setdefault(stage, (now, done))
        if self._progress is not None:
            rate = (done - first) / (now - since) if now > since else 0.0
            self._progress(Progress(stage, done, total, rate, dict(average)))
