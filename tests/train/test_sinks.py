"""Events on disk: whole lines, whatever happens; steps done again are there once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mainspring.train import events as ev
from mainspring.train.sinks import JsonLines, kind, read, to_json

STEP = ev.StepDone(1, 2.5, 128, 0.5, 256.0, 0.1, 1e-3, 1.5, 10.0, 2**20, {"clm": 2.5})


def step(number: int) -> ev.StepDone:
    return ev.StepDone(number, *list(vars(STEP).values())[1:])


def test_every_event_is_one_line_of_json(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "m.jsonl")
    told = [STEP, ev.CheckpointSaved(1, "a\nb"), ev.Warned(1, "ünï"), ev.RunEnded(1, "finished", 2.5, 1.0)]
    for event in told:
        sink(event)
    sink.close()
    lines = (tmp_path / "m.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines] == [kind(e) for e in told]
    assert json.loads(lines[0])["losses"] == {"clm": 2.5} and json.loads(lines[0])["time"] > 1.6e9
    assert json.loads(lines[1])["path"] == "a\nb"


def test_what_json_lacks_becomes_text() -> None:
    line = to_json(ev.RunEnded(3, "failed", math.nan, math.inf))
    assert json.loads(line, parse_constant=pytest.fail) | {"time": 0} == {
        "event": "run_ended",
        "time": 0,
        "step": 3,
        "status": "failed",
        "loss": "nan",
        "seconds": "inf",
        "message": "",
    }


def test_resuming_drops_what_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    sink = JsonLines(path)
    for number in range(1, 7):
        sink(step(number))
    sink.close()
    again = JsonLines(path, resumed=4)
    again(step(5))
    again.close()
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4, 5]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    sink = JsonLines(path)
    sink(step(1))
    sink.close()
    with path.open("a") as file:
        file.write('{"event": "step_done", "st')
    assert [line["step"] for line in read(path)] == [1]
    again = JsonLines(path, resumed=1)
    again(step(2))
    again.close()
    assert [line["step"] for line in read(path)] == [1, 2]
    assert list(read(tmp_path / "none.jsonl")) == []
