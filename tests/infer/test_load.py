"""What an engine can be loaded from, and what is said where it cannot."""

from pathlib import Path

import pytest
import torch

from mainspring.config import to_toml
from mainspring.data.config import DataConfig
from mainspring.errors import UsageError, WeightsError
from mainspring.infer import Engine, GenerateOptions
from mainspring.models import ModelConfig, resolve
from mainspring.models.exchange import Layout, export_model
from mainspring.models.hub import export_hf
from mainspring.nn import Transformer, initialize
from mainspring.objectives.config import MaskedConfig
from mainspring.text import Tokenizer, train_tokenizer
from mainspring.train.checkpoint import save
from mainspring.train.checkpoint.state import model_state
from mainspring.train.recipe import Recipe, TrainConfig

MODEL = ModelConfig(
    family="gpt2",
    preset="tiny",
    config={"d_model": 32, "n_layers": 2, "d_ff": 64, "max_positions": 64, "vocab_size": 300},
)
RECIPE = Recipe(
    name="toy",
    model=MODEL,
    data=DataConfig(path="nowhere", seq_len=32),
    train=TrainConfig(steps=2, batch_tokens=64),
)
OPTIONS = GenerateOptions(max_tokens=10)


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A run of two checkpoints."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "recipe.toml").write_text(to_toml(RECIPE))
    tokenizer.save(folder / "tokenizer.json")
    for step in (1, 2):
        save(folder / "checkpoints", step, model_state(network(tokenizer, step)), {})
    return folder


def network(tokenizer: Tokenizer, seed: int) -> Transformer:
    return initialize(Transformer(resolve(MODEL, tokenizer.vocab_size)), seed=seed)


def text(engine: Engine) -> str:
    return engine.generate(["the cat"], OPTIONS)[0].text


def test_a_run_is_its_newest_checkpoint(run: Path, tokenizer: Tokenizer) -> None:
    engine = Engine.load(run)
    assert engine.name == "toy"
    assert text(engine) == text(Engine(network(tokenizer, 2), tokenizer))
    assert text(Engine.load(run / "recipe.toml")) == text(engine)
    one, two = sorted((run / "checkpoints").glob("step-*"))
    assert text(Engine.load(two)) == text(engine)
    assert text(Engine.load(str(one))) == text(Engine(network(tokenizer, 1), tokenizer)) != text(engine)


def test_a_hugging_face_directory(run: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = network(tokenizer, 2)
    export_hf(MODEL, model.config, model.state_dict(), run / "tokenizer.json", tmp_path / "exported")
    engine = Engine.load(tmp_path / "exported")
    assert text(engine) == text(Engine.load(run))
    assert engine.tokenizer.eos == tokenizer.eos


@pytest.mark.parametrize("layout", ["safetensors", "megatron"])
def test_other_layouts(run: Path, tokenizer: Tokenizer, tmp_path: Path, layout: Layout) -> None:
    model, written = network(tokenizer, 2), run / "tokenizer.json"
    export_model(layout, MODEL, model.config, model.state_dict(), written, tmp_path / "out", ranks=2)
    assert text(Engine.load(tmp_path / "out")) == text(Engine.load(run))


def test_precision_and_device(run: Path) -> None:
    engine = Engine.load(run, precision="bf16")
    assert {p.dtype for p in engine.model.parameters()} == {torch.bfloat16}
    assert text(engine)
    with pytest.raises(UsageError, match="device 'cudo'"):
        Engine.load(run, device="cudo")
    with pytest.raises(UsageError, match="should be one of fp32, bf16, int8"):
        Engine.load(run, precision="fp64")


def test_a_wrong_path_says_what_was_looked_for(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UsageError, match=r"recipe\.toml.*step-.*config\.json"):
            Engine.load(path)


def test_a_run_without_a_checkpoint(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "recipe.toml").write_text(to_toml(RECIPE))
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(UsageError, match="no complete checkpoint yet"):
        Engine.load(tmp_path)


def test_an_encoder_does_not_generate(run: Path, tmp_path: Path) -> None:
    words = train_tokenizer(["the cat sat on the mat"] * 4, "wordpiece", 60)
    words.save(run / "tokenizer.json")
    (run / "recipe.toml").write_text(
        to_toml(RECIPE.replace(objective=MaskedConfig().model_dump(mode="json")))
    )
    with pytest.raises(
        UsageError, match="objective 'mlm', which does not learn to write text.* clm, prefix, s2s"
    ):
        Engine.load(run).generate(["the cat"])
    assert Engine.load(run).embed(["the cat"]).vectors.shape == (1, 32)
    bert = ModelConfig(family="bert", preset="tiny")
    model = initialize(Transformer(resolve(bert, 300)), seed=0)
    export_hf(bert, model.config, model.state_dict(), run / "tokenizer.json", tmp_path / "bert")
    engine = Engine.load(tmp_path / "bert")
    with pytest.raises(UsageError, match="bert does not continue text"):
        engine.stream("the cat")
    assert engine.model.config.head == "none", "a head that nothing reads is left out"


def test_weights_of_another_shape(run: Path) -> None:
    larger = RECIPE.replace(
        model=MODEL.replace(config={**MODEL.config, "n_layers": 3}).model_dump(mode="json")
    )
    (run / "recipe.toml").write_text(to_toml(larger))
    with pytest.raises(WeightsError, match=r"layers\.2"):
        Engine.load(run)
