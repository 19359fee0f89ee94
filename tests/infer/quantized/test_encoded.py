"""A model that was written in integers is run with those integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mainspring.infer import Engine
from mainspring.infer.opening import pack_model
from mainspring.infer.quantized import QuantizedTable, quantized_layers
from mainspring.models import ModelConfig, resolve
from mainspring.models.native import export_native, read_encoded
from mainspring.nn import Transformer, initialize
from mainspring.numerics import Encoded, Format, Integers
from mainspring.text import Tokenizer

MODEL = ModelConfig(
    family="gpt2", preset="tiny", config={"d_model": 192, "n_heads": 4, "n_layers": 1, "d_ff": 256}
)

NAMES = ("layers.0.attention.qkv.weight", "layers.0.feed_forward.up.weight", "embeddings.token.weight")


def written(folder: Path, tokenizer: Tokenizer, form: Integers) -> dict[str, tuple[Encoded, Format]]:
    """A random model whose integers stay below the largest, so that rounding its values gives others."""
    config = resolve(MODEL, tokenizer.vocab_size)
    model = initialize(Transformer(config), seed=0)
    draw = torch.Generator().manual_seed(0)
    encoded = {}
    for name in (
        "layers.0.attention.qkv.weight",
        "layers.0.feed_forward.up.weight",
        "embeddings.token.weight",
    ):
        rows, columns = model.get_parameter(name).shape
        codes = torch.randint(-form.largest + 1, form.largest - 1, (rows, columns), generator=draw)
        boxes = 1 if form.box is None else -(-columns // form.box)
        scales = torch.rand(rows, boxes, generator=draw) / 64 + 0.01
        masked = (codes & ((1 << form.element_bits) - 1)).to(torch.uint8)
        encoded[name] = form.join(masked, scales)
    tokenizer.save(folder / "tokenizer.json")
    formats = dict.fromkeys(encoded, form.name)
    state = model.state_dict()
    export_native(MODEL, config, state, folder / "tokenizer.json", folder, encoded=encoded, formats=formats)
    return read_encoded(folder)


@pytest.mark.parametrize(
    ("precision", "form"), [("int8", Integers(8)), ("int4", Integers(4, 64)), ("int4", Integers(3, 128))],
    ids=["int8", "int4-g64", "int3-g128"],
)  # fmt: skip
def test_layers_have_them(tokenizer: Tokenizer, tmp_path: Path, precision: str, form: Integers) -> None:
    encoded = written(tmp_path, tokenizer, form)
    expected = {name.removesuffix(".weight"): f.decode(one) for name, (one, f) in encoded.items()}
    for packed in (False, True):
        engine = Engine.load(tmp_path, precision=precision)
        layers = quantized_layers(engine.model)
        for name, weight in expected.items():
            assert layers[name].precision == precision
            torch.testing.assert_close(layers[name].weight, weight, atol=0, rtol=1e-6)
        assert isinstance(engine.model.embeddings.token, QuantizedTable)
        if not packed:
            pack_model(tmp_path, precision)


@pytest.mark.parametrize(
    ("precision", "form"), [("int8", Integers(8, 32)), ("int4", Integers(8)), ("int4", Integers(4, 32))],
    ids=["groups of int8", "int8 in int4", "small groups"],
)  # fmt: skip
def test_others_are_rounded(tokenizer: Tokenizer, tmp_path: Path, precision: str, form: Integers) -> None:
    encoded = written(tmp_path, tokenizer, form)
    layers = quantized_layers(Engine.load(tmp_path, precision=precision).model)
    for name, (one, f) in encoded.items():
        weight, values = layers[name.removesuffix(".weight")].weight, f.decode(one)
        error = float((weight - values).square().mean() / values.square().mean())
        assert 0 < error < 0.02
