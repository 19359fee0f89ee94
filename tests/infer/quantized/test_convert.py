"""Models with quantised layers: close to the trained ones, and the same after a file."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.errors import ConfigError, WeightsError
from mainspring.infer.quantized import (
    PRECISIONS,
    from_quantized,
    load_packed,
    packed_metadata,
    packed_state,
    quantize_model,
    quantized_layers,
    set_quantized,
)
from mainspring.infer.quantized.kernels import PORTABLE
from mainspring.models import FAMILIES
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.moe import ExpertList, ExpertMaps, list_experts

GPT = TransformerConfig(d_model=64, n_heads=4, n_layers=2, d_ff=256, vocab_size=101, max_positions=32)
BERT = TransformerConfig(
    d_model=64, n_heads=4, n_layers=2, d_ff=128, vocab_size=101, max_positions=32, norm_place="post",
    embed_norm=True, head_transform=True, head_bias=True, pooler=True, pair_classes=2, type_vocab=2,
)  # fmt: skip
LEAST = {"fp32": 200, "bf16": 35, "int8": 30, "int8-weight": 35, "int4": 12, "msfp16": 28, "msfp12": 6}
"""Signal to noise of logits that a precision must keep, in dB; others have to be above 0."""


def made(config: TransformerConfig) -> Transformer:
    return initialize(Transformer(config), seed=0).eval().requires_grad_(False)


def batch_of(config: TransformerConfig) -> TokenBatch:
    ids = torch.randint(0, 101, (3, 20), generator=torch.Generator().manual_seed(1))
    return causal_batch(ids) if config.norm_place == "pre" else bidirectional_batch(ids)


def decibels(got: torch.Tensor, wanted: torch.Tensor) -> float:
    noise = (got.float() - wanted).square().sum().clamp(min=1e-30)
    return float(10 * torch.log10(wanted.square().sum() / noise))


@pytest.mark.parametrize("config", [GPT, BERT], ids=["gpt", "bert"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_precisions_stay_near_the_trained_model(name: str, config: TransformerConfig) -> None:
    wanted = made(config)(batch_of(config)).logits
    model = made(config)
    assert quantize_model(model, name) is model
    assert decibels(model(batch_of(config)).logits, wanted) > LEAST.get(name, 0)
    kept = PRECISIONS[name].make is None
    assert any(isinstance(m, nn.Linear) and m.out_features >= 16 for m in model.modules()) == kept


@pytest.mark.parametrize("name", ["int8", "int8-weight", "int4", "msfp12", "fp32"])
def test_a_file_gives_the_same_model(name: str, tmp_path: Path) -> None:
    model = quantize_model(made(BERT), name, by_name={"layers.0.*": "int8", "pooler.*": "fp32"})
    file = tmp_path / f"{name}.safetensors"
    save_file(packed_state(model), file, packed_metadata(model))
    with torch.device("meta"):
        empty = Transformer(BERT)
    with safe_open(file, "pt") as opened:
        state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        loaded = load_packed(empty, state, opened.metadata())
    assert {n: type(m) for n, m in loaded.named_modules()} == {n: type(m) for n, m in model.named_modules()}
    for key, tensor in loaded.state_dict().items():
        assert tensor.data_ptr() == state[key].data_ptr()  # no copy
    assert torch.equal(loaded.eval()(batch_of(BERT)).logits, model(batch_of(BERT)).logits)


def test_a_tied_table_is_stored_once_and_small() -> None:
    model = quantize_model(made(GPT), "int8")
    table = quantized_layers(model)["embeddings.token"]
    assert table.nbytes == 101 * (64 + 4)
    assert sum("token" in name for name in packed_state(model)) == 2


def test_every_family_runs_in_int8() -> None:
    for name, family in FAMILIES.items():
        config = family.presets["tiny"]
        if config.is_encoder_decoder:
            continue
        model = made(config)
        ids = torch.randint(5, 200, (2, 12), generator=torch.Generator().manual_seed(0))
        batch = causal_batch(ids) if family.causal else bidirectional_batch(ids)
        wanted = model(batch).hidden
        assert decibels(quantize_model(model, "int8")(batch).hidden, wanted) > 25, name


@pytest.mark.parametrize("name", ["int8", "int4", "msfp12"])
def test_experts_are_quantised_one_by_one(name: str, tmp_path: Path) -> None:
    """Each as a linear layer of its own; the gate stays. From a file too, which is as small as that."""
    routing = {"count": 6, "every": 1, "top_k": 2, "residual": True}
    config = GPT.replace(experts=routing)
    plain, model = made(config), quantize_model(made(config), name)
    layers = quantized_layers(model)
    make = PRECISIONS[name].make
    assert make is not None
    for kind in ("up", "down"):
        maps = plain.get_submodule(f"layers.1.feed_forward.experts.{kind}")
        assert isinstance(maps, ExpertMaps) and maps.biases is not None
        for number in range(6):
            alone = make(maps.weight[number], maps.biases[number], PORTABLE)
            found = layers[f"layers.1.feed_forward.experts.{kind}.{number}"]
            assert torch.equal(found.weight, alone.weight)
    kept = [key for key, weight in model.named_parameters() if weight.ndim == 2 and "position" not in key]
    assert all(key.endswith(("gate.weight", "mix.weight")) for key in kept)
    batch = batch_of(config)
    assert decibels(model(batch).logits, plain(batch).logits) > LEAST[name] / 2
    file = tmp_path / "model.safetensors"
    save_file(packed_state(model), file, packed_metadata(model))
    with torch.device("meta"):
        empty = Transformer(config)
    with safe_open(file, "pt") as opened:
        state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        loaded = load_packed(empty, state, opened.metadata())
    assert torch.equal(loaded.eval()(batch).logits, model(batch).logits)


def test_listed_experts_are_the_stacked_ones() -> None:
    config = GPT.replace(experts={"count": 3, "every": 2}, activation="geglu")
    model, listed = made(config), made(config)
    list_experts(listed)
    assert any(isinstance(module, ExpertList) for module in listed.modules())
    batch = batch_of(config)
    torch.testing.assert_close(listed(batch).logits, model(batch).logits)


def test_chosen_integers_go_in_as_they_are() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-8, 8, (24, 100), dtype=torch.int8, generator=generator)
    for bits, group in ((4, 64), (4, None), (8, None), (3, 128)):
        groups = 1 if group is None else -(-100 // group)
        scales = torch.rand(24, groups, generator=generator)
        layer = from_quantized(values, scales, bits=bits, group=group)
        exact = values.float() * scales.repeat_interleave(100 if group is None else group, 1)[:, :100]
        assert torch.equal(layer.weight, exact)
    model = made(GPT)
    layer = from_quantized(torch.ones(64, 256, dtype=torch.int8), torch.ones(64), torch.zeros(64))
    set_quantized(model, "layers.0.feed_forward.down", layer)
    assert quantized_layers(model) == {"layers.0.feed_forward.down": layer}


def test_wrong_input_is_named() -> None:
    with pytest.raises(ConfigError, match="int9"):
        quantize_model(made(GPT), "int9")
    with pytest.raises(WeightsError, match="-128"):
        from_quantized(torch.full((4, 64), -128, dtype=torch.int8), torch.ones(4))
    with pytest.raises(WeightsError, match="give"):
        from_quantized(torch.zeros((4, 128), dtype=torch.int8), torch.ones(4), bits=4, group=64)
    with pytest.raises(WeightsError, match="metadata"):
        load_packed(made(GPT), {}, {})
    model = quantize_model(made(GPT), "int4")
    state = packed_state(model)
    del state["norm.weight"]
    with pytest.raises(WeightsError, match=r"norm\.weight"):
        load_packed(made(GPT), state, packed_metadata(model))
