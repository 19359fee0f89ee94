"""The self-check passes what is right and refuses what is not."""

from pathlib import Path

import pytest
import torch

from mainspring.errors import UsageError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.infer import Engine
from mainspring.infer.precision import PRECISIONS
from mainspring.infer.self_check import SelfCheckError
from mainspring.models import ModelConfig
from mainspring.models.native import export_native
from mainspring.nn import Transformer, initialize
from mainspring.text import Tokenizer

MODEL = ModelConfig(family="gpt2", preset="tiny")


def saved(model: Transformer, tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(folder / "tokenizer.json")
    return export_native(MODEL, model.config, model.state_dict(), folder / "tokenizer.json", folder)


def test_every_precision_passes(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = saved(model, tokenizer, tmp_path)
    for precision, info in PRECISIONS.items():
        if precision.startswith(("msfp", "mx")) and precision not in ("msfp16", "mxint8"):
            continue  # of 16 formats on one path two will do
        checked = Engine.load(folder, precision=precision, self_check=True).checked
        assert checked is not None and checked.passed and checked.compared == "logits"
        assert checked.values == 36 and checked.tolerance == info.tolerance
        if precision == "fp32":
            assert checked.agreement == 1.0 and checked.relative < 1e-4
        else:
            assert checked.difference > 0


def test_a_wrong_weight_is_found(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    plain = Engine.load(saved(model, tokenizer, tmp_path)).network
    wrong = Engine.load(tmp_path)
    with torch.no_grad():
        wrong.model.layers[0].feed_forward.up.weight[0] *= -5.0
    found = wrong.check_against(plain, 1e-3)
    assert not found.passed and "differ from fp32" in str(found)
    with pytest.raises(SelfCheckError, match="toy failed its self-check: logits differ"):
        found.require("toy")
    with torch.no_grad():
        wrong.model.layers[0].feed_forward.up.weight[0] = torch.nan
    assert not wrong.check_against(plain, 1e-3).passed


@pytest.mark.parametrize("task", ["classify", "tag", None])
def test_readers_are_checked(model: Transformer, tokenizer: Tokenizer, task: str | None) -> None:
    # With the fixture's wide weights a softmax may hang on a rounding of bf16.
    config = model.config.replace(init_std=0.08)

    def make() -> Transformer | TaskModel:
        if task is None:
            return initialize(Transformer(config.replace(head="none")), seed=3).requires_grad_(False)
        head = HeadConfig.model_validate({"task": task, "labels": ("a", "b", "c")})
        return initialize(TaskModel(config, head), seed=3).requires_grad_(False)

    engine = Engine(make().bfloat16(), tokenizer, refusal="reads", causal=False)
    found = engine.check_against(make(), PRECISIONS["bf16"].tolerance)
    assert found.passed and found.difference > 0
    assert found.compared == ("hidden states" if task is None else "logits")
    engine = Engine(make(), tokenizer, refusal="reads", causal=False)
    assert engine.check_against(make(), 1e-4).passed


def test_a_wrong_precision_names_the_nearest(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = saved(model, tokenizer, tmp_path)
    with pytest.raises(UsageError, match=r"should be one of fp32, bf16, int8.*did you mean 'bf16'"):
        Engine.load(folder, precision="fb16")
