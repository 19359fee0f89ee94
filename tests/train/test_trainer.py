"""The trainer in one process: it learns, tells, saves, evaluates, resumes bit for bit, and refuses what
does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from mainspring import optim
from mainspring.errors import CheckpointError, ConfigError, NonFiniteError, PlanError
from mainspring.train import Run, Trainer
from mainspring.train import checkpoint as ck
from mainspring.train import events as ev
from mainspring.train.events import StepDone
from mainspring.train.sinks import read
from train.tiny import build_data, fit, recipe


def losses(told: list[ev.Event]) -> dict[int, float]:
    return {e.step: e.loss for e in told if isinstance(e, StepDone)}


def final_state(run: Path) -> dict[str, torch.Tensor]:
    path = ck.latest(run / "checkpoints")
    assert path is not None
    return ck.load_model_state(path)


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_a_run_learns_and_leaves_all_its_files(data: Path, tmp_path: Path) -> None:
    result, told, _ = fit(recipe(data, train__steps=40, train__eval_every=20), tmp_path)
    assert result.status == "finished" and result.step == 40
    curve = losses(told)
    assert list(curve) == list(range(1, 41))
    assert curve[1] == pytest.approx(math.log(280), abs=0.3), "untrained: uniform over the vocabulary"
    assert curve[40] < 0.7 * curve[1]
    run = Run(tmp_path)
    assert run.read_recipe() == recipe(data, train__steps=40, train__eval_every=20)
    assert json.loads(run.plan.read_text())["batch"] == {
        "rows": 8,
        "rows_per_rank": 8,
        "micro_rows": 8,
        "accumulation": 1,
    }
    assert run.tokenizer.is_file()
    assert next(read(run.metrics))["event"] == "run_started"
    assert {line["step"]: line["loss"] for line in read(run.metrics) if line["event"] == "step_done"} == curve
    assert [p.name for p in ck.complete(run.checkpoints)] == ["step-00000038", "step-00000040"]
    assert result.checkpoint == run.checkpoints / "step-00000040"


def test_events_tell_rate_norm_time_and_memory(data: Path, tmp_path: Path) -> None:
    wanted = recipe(data, train__log_every=2)
    _, told, _ = fit(wanted, tmp_path)
    planned, start, *_, end = told
    steps = [e for e in told if isinstance(e, StepDone)]
    assert isinstance(planned, ev.Planned) and sum(planned.bytes_by_kind.values()) == planned.bytes_per_rank
    assert isinstance(start, ev.RunStarted) and isinstance(end, ev.RunEnded)
    assert (start.world, start.tokens, start.resumed, start.steps) == (1, 128, False, 6)
    assert start.parameters == sum(t.numel() for t in final_state(tmp_path).values())
    assert [e.step for e in steps] == [2, 4, 6]
    for event in steps:
        assert event.lr == optim.lr(event.step - 1, 6, wanted.optim)
        assert event.tokens_per_second == pytest.approx(128 / event.seconds)
        assert event.mfu == pytest.approx(start.flops_per_token * event.tokens_per_second / 1e11)
        assert event.grad_norm > 0 and event.memory_bytes > 2**20 and event.losses == {"clm": event.loss}
    assert steps[-1].eta_seconds == 0 and steps[0].eta_seconds > 0
    assert (end.status, end.loss) == ("finished", steps[-1].loss)
    assert [e.step for e in told if isinstance(e, ev.CheckpointSaved)] == [2, 4, 6]
    (first,) = (e for e in told if isinstance(e, ev.FirstStep))
    assert first.step == 1 and first.seconds > steps[0].seconds
    assert 2**20 < first.start_memory_bytes <= steps[-1].memory_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_is_bit_equal(data: Path, tmp_path: Path, precision: str) -> None:
    wanted = recipe(
        data,
        train__precision=precision,
        model__config={
            "d_model": 16,
            "n_heads": 2,
            "n_layers": 2,
            "d_ff": 32,
            "max_positions": 32,
            "dropout": 0.1,
        },
    )
    _, through, _ = fit(wanted, tmp_path / "through")

    class Killed(Exception):
        pass

    def kill(event: ev.Event) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            raise Killed

    with pytest.raises(Killed):
        fit(wanted, tmp_path / "cut", kill)
    result, told, _ = fit(wanted, tmp_path / "cut")
    assert isinstance(told[1], ev.RunStarted) and told[1].resumed and told[1].step == 4
    assert losses(told) == {s: v for s, v in losses(through).items() if s > 4}
    assert result.loss == losses(through)[6]
    same_state(final_state(tmp_path / "cut"), final_state(tmp_path / "through"))
    lines = read(tmp_path / "cut" / "metrics.jsonl")
    steps = [line["step"] for line in lines if line["event"] == "step_done"]
    assert steps == [1, 2, 3, 4, 5, 6], "steps done twice are in the file once"


def test_a_finished_run_is_left_alone_and_can_be_made_longer(data: Path, tmp_path: Path) -> None:
    fit(recipe(data), tmp_path)
    result, told, _ = fit(recipe(data), tmp_path)
    assert result.status == "finished" and result.step == 6 and losses(told) == {}
    result, told, _ = fit(recipe(data, train__steps=8), tmp_path)
    assert list(losses(told)) == [7, 8]


def test_accumulation_gives_the_same_run(data: Path, tmp_path: Path) -> None:
    from mainspring.train import setup

    _, whole, _ = fit(recipe(data), tmp_path / "whole")
    prepared = setup.prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mainspring.train.trainer.prepare", lambda *a, **k: prepared(*a, **{**k, "micro_rows": 2})
        )
        _, parts, _ = fit(recipe(data), tmp_path / "parts")
    assert isinstance(parts[1], ev.RunStarted) and parts[1].accumulation == 4
    for step, loss in losses(whole).items():
        assert losses(parts)[step] == pytest.approx(loss, abs=1e-5)


def test_masked_language_modelling_trains(tmp_path: Path) -> None:
    data = build_data(tmp_path / "data", "wordpiece", 120)
    _, told, _ = fit(recipe(data, kind="mlm", train__steps=30, train__eval_every=30), tmp_path / "run")
    curve = losses(told)
    assert curve[30] < curve[1]
    score = next(e for e in told if isinstance(e, ev.Evaluated))
    assert score.bits_per_byte is None and score.perplexity == pytest.approx(math.exp(score.loss))


def test_held_out_score_is_bits_per_byte_of_every_token_once(data: Path, tmp_path: Path) -> None:
    from mainspring.evaluate.language_model import evaluate

    wanted = recipe(data, train__eval_every=3, train__eval_tokens=0)
    _, told, trainer = fit(wanted, tmp_path)
    scores = [e for e in told if isinstance(e, ev.Evaluated)]
    assert [e.step for e in scores] == [3, 6] and scores[1].loss < scores[0].loss
    assert trainer.setup is not None
    oracle = evaluate(trainer.setup.model, trainer.setup.data, seq_len=16)
    assert scores[1].tokens == oracle.tokens and scores[1].bytes == oracle.bytes
    assert scores[1].bits_per_byte == pytest.approx(oracle.bits_per_byte, rel=1e-5)
    assert scores[1].perplexity == pytest.approx(oracle.perplexity, rel=1e-5)


def test_clipping_bounds_the_update(data: Path, tmp_path: Path) -> None:
    _, free, _ = fit(recipe(data, optim__clip=0.0), tmp_path / "free")
    _, bound, _ = fit(recipe(data, optim__clip=1e-3), tmp_path / "bound")
    norms = [[e.grad_norm for e in told if isinstance(e, StepDone)] for told in (free, bound)]
    assert norms[0][0] == norms[1][0] > 1e-3, "the norm told is the one before clipping"
    assert norms[0] != norms[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data__seq_len": 32}, "data.seq_len was 16 and is 32"),
        ({"train__seed": 4}, "train.seed was 3 and is 4"),
        ({"train__batch_tokens": 256}, "train.batch_tokens was 128 and is 256"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    data: Path, tmp_path: Path, change: dict[str, int], said: str
) -> None:
    fit(recipe(data, train__steps=2), tmp_path)
    with pytest.raises(CheckpointError, match=f"of another run: .*{said}"):
        fit(recipe(data, train__steps=2, **change), tmp_path)


def test_impossible_recipes_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train.batch_tokens = 100"):
        fit(recipe(data, train__batch_tokens=100), tmp_path)
    with pytest.raises(ConfigError, match="no mask token"):
        fit(recipe(data, kind="mlm"), tmp_path)
    with pytest.raises(PlanError, match="2 ranks"):
        fit(recipe(data, plan__data=2), tmp_path)


def poison(trainer_of: list[Trainer], name: str, at: int, value: float) -> object:
    def sink(event: ev.Event) -> None:
        if isinstance(event, StepDone) and event.step == at:
            setup = trainer_of[0].setup
            assert setup is not None
            with torch.no_grad():
                dict(setup.model.named_parameters())[name].view(-1)[0] = value

    return sink


def poisoned_run(data: Path, folder: Path, name: str, value: float, **changes: object) -> list[ev.Event]:
    from mainspring.parallel import World
    from train.tiny import MACHINE

    told: list[ev.Event] = []
    holder: list[Trainer] = []
    trainer = Trainer(
        recipe(data, **changes),
        folder,
        World(),
        [told.append, poison(holder, name, 3, value)],
        machine=MACHINE,
    )
    holder.append(trainer)
    trainer.fit()
    return told


def test_a_parameter_that_is_not_finite_is_named(data: Path, tmp_path: Path) -> None:
    said = r"step 4: .*parameter 'weight' of module 'layers\.1\.\S+' \(Linear\): 1 NaN"
    with pytest.raises(NonFiniteError, match=said):
        poisoned_run(data, tmp_path, _some_linear(data), math.nan)
    assert ck.latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-00000002"
    assert list(read(tmp_path / "metrics.jsonl"))[-1]["status"] == "failed"


def _some_linear(data: Path) -> str:
    from mainspring import models
    from mainspring.nn import Transformer

    model = Transformer(models.resolve(recipe(data).model, 280))
    return next(n for n, p in model.named_parameters() if n.startswith("layers.1.") and p.ndim == 2)


def test_an_activation_that_is_not_finite_is_named(data: Path, tmp_path: Path) -> None:
    said = r"step 4: .*output\S* of module '\S+' \(\w+\): \d+ NaN and \d+ infinite"
    with pytest.raises(NonFiniteError, match=said):
        poisoned_run(data, tmp_path, "embeddings.token.weight", 3e38, data__seq_len=16)


def test_skipping_leaves_the_step_out_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mainspring.objectives import CausalLM, Loss

    calls = {"n": 0}
    honest = CausalLM.loss

    def sometimes(self: CausalLM, model: torch.nn.Module, views: dict[str, object]) -> dict[str, Loss]:
        result = honest(self, model, views)
        calls["n"] += 1
        if calls["n"] in (3, 4):  # the step, and its second pass for the diagnosis
            return {"clm": Loss(result["clm"].total * math.inf, 1.0, result["clm"].count)}
        return result

    monkeypatch.setattr(CausalLM, "loss", sometimes)
    result, told, _ = fit(recipe(data, train__on_nonfinite="skip"), tmp_path)
    skipped = [e for e in told if isinstance(e, ev.StepSkipped)]
    assert [(e.step, e.skipped) for e in skipped] == [(3, 1)]
    assert "gradient of the output" in skipped[0].reason
    assert list(losses(told)) == [1, 2, 4, 5, 6] and result.status == "finished"
    last = ck.latest(tmp_path / "checkpoints")
    assert last is not None and ck.Manifest.read(last).run["skipped"] == 1
    # The optimizer did five updates.
    state = {n: e for n, e in ck.verify(last).tensors.items() if n.endswith(".step")}
    assert state


def test_skipping_gives_up_where_it_cannot_help(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="more will not help"):
        poisoned_run(data, tmp_path, _some_linear(data), math.inf, train__on_nonfinite="skip")


def test_a_failed_save_warns_and_the_next_is_tried(data: Path, tmp_path: Path) -> None:
    def sometimes(folder: Path, step: int, *args: object, **options: object) -> Path:
        if step == 2:
            raise CheckpointError("no space left")
        return ck.save(folder, step, *args, **options)  # type: ignore[arg-type]

    result, told, _ = fit(recipe(data), tmp_path, save=sometimes)
    warned = [e for e in told if isinstance(e, ev.Warned)]
    assert len(warned) == 1 and "no space left" in warned[0].message
    assert result.checkpoint == tmp_path / "checkpoints" / "step-00000006"


def test_a_failed_last_save_is_an_error(data: Path, tmp_path: Path) -> None:
    def never(*args: object, **options: object) -> Path:
        raise CheckpointError("no space left")

    with pytest.raises(CheckpointError, match="the last checkpoint was not written: no space left"):
        fit(recipe(data, train__steps=1), tmp_path, save=never)


def test_tensorboard_files(data: Path, tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torch.utils.tensorboard")
        fit(recipe(data, train__tensorboard=True), tmp_path)
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        scalars = EventAccumulator(str(tmp_path / "tensorboard"))
        scalars.Reload()
        assert [s.step for s in scalars.Scalars("step_done/loss")] == [1, 2, 3, 4, 5, 6]
