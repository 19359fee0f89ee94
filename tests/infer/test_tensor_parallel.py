"""A model that lies on several ranks writes and reads what one process does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.errors import PlanError, WeightsError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.infer import Engine, GenerateOptions
from mainspring.infer.layout import Layout
from mainspring.infer.load import Shape
from mainspring.infer.tensor_parallel import (
    RankReport,
    check_plan,
    gather_reports,
    peak_memory,
    spread,
    weight_bytes,
)
from mainspring.models import ModelConfig
from mainspring.models.native import export_native
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.parallel import Plan
from mainspring.text import Tokenizer
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

PROMPTS = ["the cat sat", "the dog", "mat on the log"]
OPTIONS = [
    GenerateOptions(max_tokens=12),
    GenerateOptions(max_tokens=8, temperature=1.0, seed=3, n=2),
    GenerateOptions(max_tokens=6, num_beams=3),
]
SHARED = {"d_model": 32, "n_heads": 4, "d_ff": 64, "init_std": 0.3, "vocab_rows": 321}
DECODER = {**SHARED, "n_layers": 2, "max_positions": 64}
BOTH = {**SHARED, "encoder_layers": 1, "decoder_layers": 2, "positions": ({"kind": "t5_bias"},)}
ENCODER = {
    **SHARED,
    "n_layers": 2,
    "head": "none",
    "max_positions": 64,
    "norm_place": "post",
    "positions": ({"kind": "disentangled", "max_distance": 16, "buckets": 8},),
}


def said(engine: Engine) -> list[str]:
    return [one.text for options in OPTIONS for one in engine.generate(PROMPTS, options)]


def write_on_ranks(rank: int, world: int, config: dict[str, Any], layout: Layout | None, text: str) -> Any:
    tokenizer = Tokenizer.load(text)
    shape = Shape(config=TransformerConfig.model_validate({**config, "vocab_size": tokenizer.vocab_size}))
    whole = initialize(Transformer(shape.config), seed=0).eval()
    plan = Plan(tensor=world)
    model = spread(shape, whole.state_dict(), plan, torch.float32, torch.device("cpu"))
    expected = Engine(whole, tokenizer, layout=layout)
    engine = Engine(model, tokenizer, layout=layout)
    report = RankReport(rank, weight_bytes(model), peak_memory(torch.device("cpu")), 0.1, 0.2)
    return (
        said(engine),
        said(expected),
        [r.rank for r in gather_reports(report)],
        weight_bytes(model) / weight_bytes(whole),
    )


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_the_same_text_as_one_process(tokenizer: Tokenizer, tmp_path: Path, kind: str) -> None:
    tokenizer.save(tmp_path)
    config = DECODER if kind == "decoder" else BOTH
    layout = None if kind == "decoder" else Layout(encoder=True, opening=(1,), continues=False)
    for found, expected, ranks, share in run_ranks(write_on_ranks, 2, config, layout, str(tmp_path)):
        assert found == expected and ranks == [0, 1]
        assert share < 0.6, "each rank holds half of the matrices"


def read_on_ranks(rank: int, world: int, text: str) -> Any:
    tokenizer = Tokenizer.load(text)
    config = TransformerConfig.model_validate({**ENCODER, "vocab_size": tokenizer.vocab_size})
    shape = Shape(config=config, head=HeadConfig(task="classify", labels=("no", "yes")))
    whole = initialize(TaskModel(config, shape.head), seed=0).eval().requires_grad_(False)  # type: ignore[arg-type]
    model = spread(shape, whole.state_dict(), Plan(tensor=world), torch.float32, torch.device("cpu"))
    pair = [Engine(one, tokenizer) for one in (model, whole)]
    classes = [[one.scores["yes"] for one in engine.classify(PROMPTS)] for engine in pair]
    vectors = [engine.embed(PROMPTS).vectors for engine in pair]
    return classes, float((vectors[0] - vectors[1]).abs().max())


def test_encoders_too(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for (found, expected), difference in run_ranks(read_on_ranks, 2, str(tmp_path)):
        assert found == pytest.approx(expected, abs=1e-5) and difference < 1e-4


def load_on_ranks(rank: int, world: int, folder: str) -> Any:
    engine = Engine.load(folder, plan=Plan(tensor=world), self_check=True)
    assert engine.checked is not None
    return (
        said(engine),
        engine.checked.relative,
        next(p.shape for p in engine.model.layers[0].feed_forward.parameters()),
    )


def test_an_engine_is_loaded_with_a_plan(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    family = ModelConfig(family="gpt2", preset="tiny")
    export_native(family, model.config, model.state_dict(), tmp_path / "tokenizer.json", tmp_path)
    expected = said(Engine.load(tmp_path))
    for found, relative, shape in run_ranks(load_on_ranks, 2, str(tmp_path)):
        assert found == expected and relative < 1e-4 and shape == (32, 32)


def test_what_cannot_be_is_said(model: Transformer) -> None:
    for plan in (Plan(data=2), Plan(tensor=2, tensor_sequence=True), Plan(pipeline=2, zero=1)):
        with pytest.raises(PlanError, match=r"plan.tensor alone; leave out plan\."):
            check_plan(plan)
    shape = Shape(config=model.config)
    state = dict(model.state_dict())
    with pytest.raises(WeightsError, match=r"layers.0.attention.qkv.weight is \[3, 3\]"):
        wrong = {**state, "layers.0.attention.qkv.weight": torch.zeros(3, 3)}
        spread(shape, wrong, Plan(), torch.float32, torch.device("cpu"))
    with pytest.raises(WeightsError, match="missing"):
        spread(shape, {}, Plan(), torch.float32, torch.device("cpu"))
    with pytest.raises(PlanError, match="process group has 1"):
        spread(shape, state, Plan(tensor=2), torch.float32, torch.device("cpu"))
