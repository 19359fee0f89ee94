"""Decoding over a cache of fixed shape, compiled or not, says what the growing cache says."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mainspring.errors import UsageError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.pooling import EmbedConfig, Embedder
from mainspring.infer import Engine, GenerateOptions
from mainspring.infer.ahead import SETTINGS, require_compiler
from mainspring.infer.compiled import StaticRunner, StaticStep, check_compilable
from mainspring.infer.layout import Layout
from mainspring.infer.runner import CachedRunner
from mainspring.models.files import read_json, write_json
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.text import Tokenizer

SHARED = {"d_model": 32, "n_heads": 4, "n_layers": 2, "d_ff": 64, "vocab_size": 90, "init_std": 0.3}
POSITIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "absolute": ({"kind": "absolute"},),
    "rotary": ({"kind": "rotary"},),
    "t5": ({"kind": "t5_bias", "bidirectional": False},),
    "gated": ({"kind": "t5_bias", "bidirectional": False, "gate": "query"},),
}
LAYOUTS = {
    "continuing": Layout(),
    "masks": Layout(mask=3, whole=True, before=(1,), after=(2,), types=(0, 1), continues=False),
}
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)
# torch 2.13 warns of itself while it imports its compiler.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:`torch\.jit\.script_method` is deprecated:DeprecationWarning"
)


def network(**other: Any) -> Transformer:
    config = TransformerConfig.model_validate({**SHARED, "max_positions": 80, "type_vocab": 2, **other})
    return initialize(Transformer(config), seed=0).eval().requires_grad_(False)


def plain_step(model: Transformer) -> Any:
    return torch.no_grad()(StaticStep(model))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_every_step_is_the_growing_caches(positions: str, layout: str) -> None:
    model = network(positions=POSITIONS[positions])
    runners = (
        CachedRunner(model, 90, LAYOUTS[layout]),
        StaticRunner(model, plain_step(model), 90, LAYOUTS[layout]),
    )
    prompts = [[5, 6, 7, 8, 9], [10], [11, 12]]
    firsts = [torch.cat(runner.prefill(prompts, 12)) for runner in runners]
    torch.testing.assert_close(firsts[1], firsts[0], atol=1e-5, rtol=1e-4)
    for rows, tokens in (
        ([0, 1, 2], [20, 21, 22]),
        ([2, 0], [23, 24]),
        ([1, 1, 0, 0, 1], [25, 26, 27, 28, 29]),
        ([4, 2], [30, 31]),
        ([1], [32]),
    ):
        for runner in runners:
            runner.select(rows)
        found = [runner.step(tokens) for runner in runners]
        torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def test_logits_at_every_token_of_a_prompt() -> None:
    model = network()
    prompts = [[5, 6, 7, 8, 9], [10, 11]]
    expected = CachedRunner(model, 90, every=True).prefill(prompts, 3)
    found = StaticRunner(model, plain_step(model), 90, Layout(), every=True).prefill(prompts, 3)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_parts_that_depend_on_their_data_are_refused() -> None:
    for other in (
        {"positions": ({"kind": "disentangled", "max_distance": 16},)},
        {"experts": {"count": 2, "every": 1}},
        {"n_layers": 0, "encoder_layers": 1, "decoder_layers": 1, "type_vocab": 0},
    ):
        with pytest.raises(UsageError, match="is not compiled; run it without"):
            check_compilable(network(**other))


def test_without_a_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler and none of .* apt install g\+\+"):
        require_compiler()


@pytest.mark.slow
@needs_compiler
def test_a_step_is_compiled_once(model: Transformer, tokenizer: Tokenizer) -> None:
    from torch._dynamo.utils import counters

    expected, engine = Engine(model, tokenizer), Engine(model, tokenizer)
    engine.compile()
    prompts, options = ["the cat", "the dog sat on"], GenerateOptions(max_tokens=30)
    assert engine.generate(prompts, options) == expected.generate(prompts, options)
    graphs = counters["stats"]["unique_graphs"]
    assert engine.generate(prompts[::-1], options) == expected.generate(prompts[::-1], options)
    assert counters["stats"]["unique_graphs"] == graphs
    assert engine.check_against(model, 1e-3).passed


@pytest.mark.slow
@needs_compiler
def test_an_encoder_is_compiled_for_all_lengths(model: Transformer, tokenizer: Tokenizer) -> None:
    head = HeadConfig(task="classify", labels=("no", "yes"))
    task = initialize(TaskModel(model.config, head), seed=0).requires_grad_(False)
    expected, engine = Engine(task, tokenizer), Engine(task, tokenizer)
    engine.compile()
    for texts in (["the cat", "the dog sat on the log"], ["mat"], ["the"] * 3 + ["the cat"] * 5):
        found = [one.scores["yes"] for one in engine.classify(texts)]
        assert found == pytest.approx([one.scores["yes"] for one in expected.classify(texts)], abs=1e-5)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", ["writer", "tagger", "embedder"])
def test_a_package_compiled_ahead_does_the_same(
    model: Transformer, tokenizer: Tokenizer, tmp_path: Path, kind: str
) -> None:
    if kind == "writer":
        made = Engine(model, tokenizer, name="toy")
        made.compile_to(tmp_path, steps=((1, 64), (2, 64)))
    else:
        head, embed = HeadConfig(task="tag", labels=("O", "X")), EmbedConfig(pooling=("mean", "cls"))
        config = model.config
        task = TaskModel(config, head) if kind == "tagger" else Embedder(config, embed)
        made = Engine(initialize(task, seed=0).requires_grad_(False), tokenizer, name="toy")
        made.compile_to(tmp_path)
    engine = Engine.load(tmp_path, self_check=True)
    assert engine.checked is not None and engine.checked.passed and engine.name == "toy"
    if kind == "writer":
        for prompts in (["the cat"], ["the cat", "the dog sat"], ["the", "a", "mat"]):
            options = GenerateOptions(max_tokens=12)
            assert engine.generate(prompts, options) == made.generate(prompts, options)
    elif kind == "tagger":
        found, expected = (one.tag(["the cat sat", "mat"])[0].words for one in (engine, made))
        assert [tag.label for tag in found] == [tag.label for tag in expected]
    else:
        for texts in (["the cat"], ["the dog sat on the log", "mat", "the"] * 3):
            vectors = [one.embed(texts).vectors for one in (engine, made)]
            torch.testing.assert_close(vectors[0], vectors[1], atol=1e-5, rtol=1e-4)
    with pytest.raises(UsageError, match="was compiled for one process on the CPU in fp32"):
        Engine.load(tmp_path, precision="bf16")
    write_json(tmp_path / SETTINGS, read_json(tmp_path / SETTINGS) | {"torch_version": "1.0"})
    with pytest.raises(UsageError, match="compiled by torch 1.0 .* compile it again here"):
        Engine.load(tmp_path)
