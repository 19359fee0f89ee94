"""Post-training quantisation: what is written is what a model computes with; methods against one another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.test_smooth import batches, model_of
from mainspring.compress.linears import linears
from mainspring.compress.post_training import Method, formats_for, quantize
from mainspring.config import parse
from mainspring.data.batch import bidirectional_batch
from mainspring.errors import UsageError, WeightsError
from mainspring.models import ModelConfig
from mainspring.models.exchange import import_model
from mainspring.models.files import read_tensors
from mainspring.models.native import export_native, read_encoded
from mainspring.nn import Transformer, TransformerConfig
from mainspring.numerics import format_named


@pytest.mark.parametrize("method", ["rtn", "smooth", "gptq"])
@pytest.mark.parametrize("form", ["int8", "int4-g8", "msfp12", "mxfp8_e4m3"])
@torch.no_grad()
def test_what_is_written_is_what_the_model_computes_with(method: Method, form: str, tmp_path: Path) -> None:
    model, texts = model_of(), batches()
    formats = formats_for(model, format_named(form), embeddings=format_named("int8"))
    done = quantize(model, formats, method=method, batches=texts, activations=True)
    assert set(done.encoded) == {f"{n}.weight" for n in [*linears(model), "embeddings.token"]}
    assert set(done.input_scales) == set(linears(model))
    assert all(0 < change.error < 0.3 and change.bytes_after < change.bytes_before for change in done.changes)
    named = parse(ModelConfig, {"family": "gpt2"})
    state = {n: p.clone() for n, p in model.state_dict().items()}
    export_native(named, model.config, state, None, tmp_path, encoded=done.encoded, formats=done.formats)
    again = import_model(tmp_path)
    assert all(torch.equal(again.state[n], t) for n, t in state.items())
    for name, (encoded, found) in read_encoded(tmp_path).items():
        assert found.name == ("int8" if name.startswith("emb") else form)
        assert torch.equal(encoded.codes, done.encoded[name].codes)
    bare = export_native(named, model.config, state, None, tmp_path / "whole")
    sizes = [(f / "model.safetensors").stat().st_size for f in (tmp_path, bare)]
    assert sizes[0] < 0.75 * sizes[1]


@torch.no_grad()
def test_gptq_beats_rounding_to_the_nearest_in_what_the_model_says() -> None:
    texts = [
        bidirectional_batch(torch.randint(37, (8, 12), generator=torch.Generator().manual_seed(seed)))
        for seed in range(8)
    ]
    errors = {}
    for method in ("rtn", "gptq"):
        model = model_of(n_layers=3)
        whole = torch.cat([model(t).hidden for t in texts])
        done = quantize(model, formats_for(model, format_named("int4")), method=method, batches=texts)
        errors[method] = float((torch.cat([model(t).hidden for t in texts]) - whole).norm() / whole.norm())
        first = done.changes[0]
        errors[method, "first"] = first.error
    assert errors["gptq", "first"] < 0.8 * errors["rtn", "first"]
    assert errors["gptq"] < 0.9 * errors["rtn"]


@torch.no_grad()
def test_layers_see_what_narrowed_layers_give() -> None:
    model, texts = model_of(), batches()
    done = quantize(model, formats_for(model, format_named("int3")), batches=texts, activations=True)
    seen = []
    handle = model.layers[1].feed_forward.up.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(texts[0])
    handle.remove()
    largest = float(seen[0][texts[0].valid].abs().max())
    # Within its own layer, maps before it are narrowed with it.
    assert done.input_scales["layers.1.feed_forward.up"] * 127 == pytest.approx(largest, rel=0.2)


def test_formats_by_layer() -> None:
    model = model_of()
    found = formats_for(
        model,
        format_named("int8"),
        layers={"layers.1": format_named("int4"), "layers.1.attention.qkv": format_named("msfp12")},
    )
    assert found["layers.0.feed_forward.up.weight"].name == "int8"
    assert found["layers.1.feed_forward.up.weight"].name == "int4"
    assert found["layers.1.attention.qkv.weight"].name == "msfp12"
    with pytest.raises(UsageError, match=r"layers.7: no layer or linear map is called so"):
        formats_for(model, format_named("int8"), layers={"layers.7": format_named("int4")})


def test_what_does_not_go_together_is_refused() -> None:
    model = model_of()
    formats = formats_for(model, format_named("int8"))
    with pytest.raises(UsageError, match="needs calibration text"):
        quantize(model, formats, method="gptq")
    with pytest.raises(UsageError, match="did you mean"):
        quantize(model, formats, method="gtpq")
    with pytest.raises(UsageError, match="no such parameter"):
        quantize(model, {"layers.9.up.weight": format_named("int8")})
    both = Transformer(
        TransformerConfig(d_model=8, n_heads=2, encoder_layers=1, decoder_layers=1, d_ff=8, vocab_size=40)
    )
    with pytest.raises(UsageError, match="single stack"):
        quantize(both, formats_for(both, format_named("int8")), method="gptq", batches=batches())
    assert len(quantize(both, formats_for(both, format_named("int8"))).changes) == 11


def test_damage_is_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = model_of()
    done = quantize(model, formats_for(model, format_named("int8")))
    named = parse(ModelConfig, {"family": "gpt2"})
    export_native(
        named, model.config, model.state_dict(), None, tmp_path, encoded=done.encoded, formats=done.formats
    )
    tensors = read_tensors(tmp_path / "model.safetensors")
    name = "layers.0.attention.qkv.weight"
    save_file({**tensors, f"{name}.codes": tensors[f"{name}.codes"][:-1]}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"qkv.weight: 767 bytes and 48 scales are not those of int8"):
        import_model(tmp_path)
    del tensors[f"{name}.scales"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"or layers.0.attention.qkv.weight.scales is missing"):
        import_model(tmp_path)
