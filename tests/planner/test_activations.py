"""Activation bytes from the formula beside the storages that autograd really keeps."""

import pytest
import torch
import torch.nn.functional as F

from mainspring.data.batch import causal_batch
from mainspring.nn import Transformer, TransformerConfig, blocked_attention, initialize
from mainspring.parallel.precision import Autocast
from mainspring.planner.activations import head_bytes, kept_bytes, layer_bytes, logit_bytes
from mainspring.planner.parameters import count_parameters

# Sizes at which no activation has as many elements as a weight: that is how casts of weights are told apart.
ROWS, LENGTH = 5, 64
BASE = {"d_model": 64, "n_heads": 4, "d_ff": 256, "vocab_size": 352, "max_positions": LENGTH}

SHAPES = {
    "gpt2": {},
    "dropout": {"dropout": 0.1},
    "attention dropout": {"dropout": 0.1, "attention_dropout": 0.1},
    "wide": {"d_model": 96, "d_ff": 160, "n_heads": 2},
    "llama": {
        "activation": "swiglu",
        "d_ff": 144,
        "norm": "rms",
        "positions": [{"kind": "rotary"}],
        "bias": False,
    },
    "bert": {
        "norm_place": "post",
        "embed_norm": True,
        "head_transform": True,
        "head_bias": True,
        "dropout": 0.1,
    },
    "t5": {"positions": [{"kind": "t5_bias"}]},
    "experts": {"experts": {"count": 4, "top_k": 2, "capacity_factor": None}},
    "t5 both": {"positions": [{"kind": "t5_bias"}], "n_layers": 0, "encoder_layers": 3, "decoder_layers": 3},
    "both": {"n_layers": 0, "encoder_layers": 3, "decoder_layers": 3},
}
LAYERS = [name for name in SHAPES if "both" not in name and name != "experts"]
DISTANCES = {
    "positions": [{"kind": "disentangled", "max_distance": 32}],
    "embed_norm": True,
    "norm_place": "post",
}


@pytest.fixture(autouse=True)
def pytorchs_attention(monkeypatch):
    """The formula is for every machine; ours, where it is faster, keeps nothing beside the output."""
    monkeypatch.setattr(blocked_attention, "_has_bf16_without_tiles", lambda: False)


def shape(name, **more):
    return TransformerConfig.model_validate({**BASE, "n_layers": 2, **SHAPES[name], **more}, strict=False)


def saved(config, numerics, *, remat=False):
    """Bytes that autograd keeps: of the model, of the loss; parameters and casts of weights apart."""
    model = initialize(Transformer(config), seed=0).train()
    model.remat = remat
    weights = {p.numel() for p in model.parameters() if p.ndim >= 2}
    if numerics == "autocast":
        Autocast(model)
    elif numerics == "bf16":
        model.to(torch.bfloat16)
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        cast = numerics == "autocast" and tensor.dtype == torch.bfloat16 and storage.nbytes() // 2 in weights
        if storage.data_ptr() not in parameters and not cast:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor keeps its address taken
        return tensor

    ids = torch.randint(0, config.vocab_size, (ROWS, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        source = {"source": causal_batch(ids)} if config.is_encoder_decoder else {}
        logits = model(causal_batch(ids), **source).logits
        model_bytes = sum(size for size, _ in storages.values())
        F.cross_entropy(logits.float().flatten(0, 1), ids.flatten(), reduction="sum")
    return model_bytes, sum(size for size, _ in storages.values()) - model_bytes


@pytest.mark.parametrize("numerics", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_keeps_what_the_formula_says(name, numerics):
    """Within 1 % a layer, by the difference of two depths."""
    two, three = (saved(shape(name, n_layers=n), numerics)[0] for n in (2, 3))
    want = layer_bytes(shape(name), LENGTH, numerics)
    assert (three - two) / (ROWS * LENGTH) == pytest.approx(want, rel=0.01)


@pytest.mark.parametrize("numerics", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_whole_model_keeps_what_the_formula_says(name, numerics):
    """Within 2 %: look-up indices and tensors that are shared by the layers are left out of the formula."""
    config = shape(name, **({} if "both" in name else {"n_layers": 4}))
    found = saved(config, numerics)[0] / (ROWS * LENGTH)
    assert found == pytest.approx(kept_bytes(config, LENGTH, numerics), rel=0.02)


@pytest.mark.parametrize("numerics", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "attention dropout", "t5"])
def test_recomputation_keeps_the_inputs(name, numerics):
    shallow, deep = (saved(shape(name, n_layers=n), numerics, remat=True)[0] for n in (2, 6))
    formula = [kept_bytes(shape(name, n_layers=n), LENGTH, numerics, kept="input") for n in (2, 6)]
    assert (deep - shallow) / (ROWS * LENGTH) == pytest.approx(formula[1] - formula[0], rel=0.01)


def test_the_published_coefficient():
    """34 bytes a token and width in 16 bits, dropout masks of a byte (arXiv 2205.05198, table 2)."""
    config = shape("dropout", d_model=4096, n_heads=32, d_ff=16384)
    assert layer_bytes(config, LENGTH, "bf16", cuda=True) / 4096 == pytest.approx(34, rel=0.01)


def test_logits():
    """What the loss keeps is the log-softmax in fp32; around it are the logits and two gradients."""
    config = shape("gpt2")
    kept = saved(config, "fp32")[1] / (ROWS * LENGTH)
    assert logit_bytes(config, "fp32") == pytest.approx(3 * kept, rel=0.01)


@pytest.mark.parametrize("numerics", ["fp32", "autocast", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_disentangled_attention_keeps_what_the_formula_says(numerics, dropout, monkeypatch):
    """Of further rows: projected distances are there once for all."""
    config = shape("gpt2", **DISTANCES, attention_dropout=dropout)
    few = saved(config, numerics)[0]
    monkeypatch.setitem(globals(), "ROWS", 2 * ROWS)
    more = saved(config, numerics)[0]
    want = kept_bytes(config, LENGTH, numerics)
    assert (more - few) / (ROWS // 2 * LENGTH) == pytest.approx(want, rel=0.02)


def test_encoder_decoder_layers_are_both_counted():
    both = shape("gpt2", n_layers=0, encoder_layers=2, decoder_layers=3)
    plain, cross = layer_bytes(both, LENGTH, "fp32"), layer_bytes(both, LENGTH, "fp32", cross=True)
    assert cross > plain
    assert kept_bytes(both, LENGTH, "fp32") == pytest.approx(2 * plain + 3 * cross + head_bytes(both, "fp32"))


def test_parameters_are_counted_without_memory():
    big = shape(
        "gpt2", d_model=4256, n_heads=28, d_ff=17024, n_layers=78, vocab_size=51200, max_positions=1024
    )
    count, rows = count_parameters(big, 1024), count_parameters(big, 1024, backend="fsdp2")
    h, layers = 4256, 78
    want = 12 * layers * h**2 + 13 * layers * h + 2 * h + (51200 + 1024) * h
    assert count.total == sum(count.by_kind.values()) == want
    assert count.matrix == 12 * layers * h**2
    assert count.head_matrix == 51200 * h
    # Elements of 79 units over 1024 ranks, rounded up, against an ideal share.
    assert count.shard / (count.total / 1024) == pytest.approx(1, abs=1e-4)
    # Rows over 1024 ranks, rounded up: 13 of 12.47 (q, k, v), 5 of 4.16 (out, down), 17 of 16.63 (up).
    excess = (3 * 13 / 12.469 + 5 * 5 / 4.156 + 4 * 17 / 16.625) / 12
    assert rows.shard / (count.total / 1024) == pytest.approx(excess, abs=0.005)
    assert count.root + layers * count.largest_layer == count.total


def test_untied_head_and_pooler():
    tied, own = (count_parameters(shape("bert", tied=t, pooler=True)) for t in (True, False))
    assert own.total - tied.total == 352 * 64
    assert own.head_matrix == tied.head_matrix
    assert own.by_kind["head"] - tied.by_kind["head"] == 352 * 64
