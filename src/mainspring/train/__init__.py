"""Training: recipes, the trainer, its events, checkpoints, and starting ranks.

Names are loaded when they are first used: reading a checkpoint does not load the trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mainspring.lazy import attributes

if TYPE_CHECKING:
    from mainspring.train.entry import run_recipe
    from mainspring.train.events import (
        CheckpointSaved,
        Evaluated,
        Event,
        FirstStep,
        RunEnded,
        RunStarted,
        Sink,
        StepDone,
        StepSkipped,
        Warned,
    )
    from mainspring.train.recipe import Recipe, TrainConfig
    from mainspring.train.run import Run
    from mainspring.train.sinks import JsonLines, TensorBoard
    from mainspring.train.trainer import Result, Trainer

_HOMES = {
    "entry": ("run_recipe",),
    "events": (
        "CheckpointSaved",
        "Evaluated",
        "Event",
        "FirstStep",
        "RunEnded",
        "RunStarted",
        "Sink",
        "StepDone",
        "StepSkipped",
        "Warned",
    ),
    "recipe": ("Recipe", "TrainConfig"),
    "run": ("Run",),
    "sinks": ("JsonLines", "TensorBoard"),
    "trainer": ("Result", "Trainer"),
}
__all__ = [
    "CheckpointSaved",
    "Evaluated",
    "Event",
    "FirstStep",
    "JsonLines",
    "Recipe",
    "Result",
    "Run",
    "RunEnded",
    "RunStarted",
    "Sink",
    "StepDone",
    "StepSkipped",
    "TensorBoard",
    "TrainConfig",
    "Trainer",
    "Warned",
    "run_recipe",
]


__getattr__ = attributes(__name__, _HOMES)
