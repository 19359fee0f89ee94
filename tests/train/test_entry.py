"""The one call that trains, alone and as a rank that torchrun started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.errors import PlanError
from mainspring.train import StepDone, run_recipe
from mainspring.train.events import Event
from train.tiny import recipe


def test_it_trains_and_measures_the_machine_itself(data: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    assert run_recipe(recipe(data, train__steps=2), tmp_path, [told.append], device="cpu") == 0
    steps = [e for e in told if isinstance(e, StepDone)]
    assert len(steps) == 2 and 0 < steps[1].mfu < 1


def test_ranks_that_were_not_started_are_missed(data: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="2 ranks"):
        run_recipe(recipe(data, plan__data=2), tmp_path, device="cpu")
    elastic = recipe(data, plan__data=2, train__elastic=True, train__steps=1)
    assert run_recipe(elastic, tmp_path, device="cpu") == 0


def test_reading_checkpoints_does_not_load_the_trainer() -> None:
    code = (
        "import sys; import mainspring.train.checkpoint, mainspring.train.run; "
        "print([m for m in sys.modules if m in ('mainspring.train.trainer', 'mainspring.planner')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_found_and_others_are_not() -> None:
    import mainspring.train as train

    for name in train.__all__:
        assert getattr(train, name).__module__.startswith("mainspring.train") or name == "Sink"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = train.nothing
