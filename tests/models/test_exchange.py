"""Layouts by name: what is written in each is read back to the same bits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mainspring.errors import ConfigError, UsageError, WeightsError
from mainspring.models import FAMILIES, ModelConfig, resolve
from mainspring.models.exchange import export_model, import_model
from mainspring.nn import Transformer, initialize
from mainspring.text.tokenizer import Tokenizer
from mainspring.text.train import train_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    tokenizer = train_tokenizer(["some words of text"] * 20, "bpe", 270)
    tokenizer.save(folder / "tokenizer.json")
    model = ModelConfig(family="turing_nlg", preset="tiny")
    config = resolve(model, tokenizer.vocab_size).replace(vocab_rows=320)
    return model, config, initialize(Transformer(config), 0).state_dict(), folder / "tokenizer.json"


@pytest.mark.parametrize("layout", ["hf", "megatron", "safetensors"])
def test_round_trip(made, tmp_path, layout):
    model, config, state, tokenizer = made
    out = export_model(layout, model, config, state, tokenizer, tmp_path, ranks=2)
    back = import_model(out, family="turing_nlg")
    assert back.family == "turing_nlg"
    assert back.config.replace(scale_residual=True) == config
    assert back.state.keys() == state.keys() and all(torch.equal(back.state[n], t) for n, t in state.items())
    assert Tokenizer.load(out).hash == Tokenizer.load(tokenizer).hash


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_written_by_our_names(family, tmp_path):
    config = FAMILIES[family].presets["tiny"].replace(vocab_size=64, vocab_rows=None)
    state = initialize(Transformer(config), 0).state_dict()
    back = import_model(
        export_model("safetensors", ModelConfig(family=family), config, state, None, tmp_path)
    )
    assert (back.family, back.config) == (family, config)
    assert all(torch.equal(back.state[n], t) for n, t in state.items())


def test_what_is_wrong_is_told(made, tmp_path):
    model, config, state, _ = made
    with pytest.raises(UsageError, match="no such folder"):
        import_model(tmp_path / "none")
    with pytest.raises(UsageError, match="no model is here: looked for config.json"):
        import_model(tmp_path)
    name = "layers.1.attention.qkv.weight"
    with pytest.raises(WeightsError, match=f"the state is not this model's; 1 missing: {name}"):
        cut = {n: t for n, t in state.items() if n != name}
        export_model("safetensors", model, config, cut, None, tmp_path / "out")
    out = export_model("safetensors", model, config, state, None, tmp_path / "out")
    tensors = load_file(out / "model.safetensors")
    save_file({**tensors, name: tensors[name][:-1].clone()}, out / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"1 of another shape: {name} is \[383, 128\], not \[384, 128\]"):
        import_model(out)
    settings = json.loads((out / "mainspring.json").read_text())
    for change, kind, message in (
        ({"family": "turing"}, WeightsError, "no family 'turing'; did you mean 'turing_nlg'"),
        ({"config": {"d_modle": 1}}, ConfigError, "d_model"),
    ):
        (out / "mainspring.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(kind, match=message):
            import_model(out)
