"""Megatron's shares: against closed forms, against transformers by a forward over ranks, and as files."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mainspring.errors import ConfigError, WeightsError
from mainspring.models import FAMILIES, ModelConfig
from mainspring.models.hub import export_hf, import_hf
from mainspring.models.megatron import AXES, export_megatron, import_megatron, merge, split
from mainspring.nn import Transformer

from .battery import Case, ours, random_reference
from .references import CASES

VERSIONS = ["0", "1.0", "2.0"]
RANKS = [1, 2, 4]
CASE: Case = next(c for c in CASES if c.family == "turing_nlg")


@pytest.fixture(scope="module")
def pair():
    reference = random_reference(CASE)
    return reference, ours(CASE, reference)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ranks", RANKS)
def test_joint_matrix_equals_its_formula(pair, ranks, version):
    """Row of (part, head, element) in each version, as DeepSpeed's loader takes it apart."""
    reference, model = pair
    attention = reference.transformer.h[1].attn.c_attn  # [in, (part, head, element)]
    heads, width = model.config.n_heads, model.config.head_width
    local = heads // ranks
    for rank, share in enumerate(split(model.state_dict(), model.config, ranks, version)):
        matrix = share["transformer.layers.1.attention.query_key_value.weight"]
        vector = share["transformer.layers.1.attention.query_key_value.bias"]
        assert matrix.shape == (3 * local * width, heads * width)
        for part in range(3):
            for head in range(local):
                for element in range(width):
                    row = {
                        "0": (part * local + head) * width + element,
                        "1.0": (head * width + element) * 3 + part,
                        "2.0": (head * 3 + part) * width + element,
                    }[version]
                    theirs = (part * heads + rank * local + head) * width + element
                    assert torch.equal(matrix[row], attention.weight[:, theirs])
                    assert vector[row] == attention.bias[theirs]


def parallel_logits(shares, heads, ids):
    """Megatron's forward written out: each rank computes with its share, and the sums are all-reduced."""
    ranks, length = len(shares), ids.shape[1]
    tables = torch.cat([s["word_embeddings.weight"] for s in shares])
    x = tables[ids] + shares[0]["position_embeddings.weight"][:length]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    layers = 1 + max(int(n.split(".")[2]) for n in shares[0] if ".layers." in n)

    def norm(x, name):
        s = shares[0]
        return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"])

    for i in range(layers):
        layer = f"transformer.layers.{i}"
        h, total = norm(x, f"{layer}.input_layernorm"), 0
        for s in shares:
            joint = F.linear(
                h,
                s[f"{layer}.attention.query_key_value.weight"],
                s[f"{layer}.attention.query_key_value.bias"],
            )
            q, k, v = joint.unflatten(-1, (heads // ranks, 3, -1)).unbind(-2)  # version 2.0
            scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / q.shape[-1] ** 0.5
            weights = scores.masked_fill(~causal, -torch.inf).softmax(-1)
            y = torch.einsum("bhqk,bkhe->bqhe", weights, v).flatten(2)
            total = total + F.linear(y, s[f"{layer}.attention.dense.weight"])
        x = x + total + shares[0][f"{layer}.attention.dense.bias"]
        h, total = norm(x, f"{layer}.post_attention_layernorm"), 0
        for s in shares:
            inner = F.gelu(
                F.linear(h, s[f"{layer}.mlp.dense_h_to_4h.weight"], s[f"{layer}.mlp.dense_h_to_4h.bias"]),
                approximate="tanh",
            )
            total = total + F.linear(inner, s[f"{layer}.mlp.dense_4h_to_h.weight"])
        x = x + total + shares[0][f"{layer}.mlp.dense_4h_to_h.bias"]
    return norm(x, "transformer.final_layernorm") @ tables.t()


@pytest.mark.parametrize("ranks", RANKS)
@torch.inference_mode()
def test_shares_compute_what_transformers_does(pair, ranks):
    reference, model = pair
    ids = torch.randint(80, (2, 9), generator=torch.Generator().manual_seed(0))
    got = parallel_logits(split(model.state_dict(), model.config, ranks), model.config.n_heads, ids)
    want = reference(ids).logits
    assert got.shape[-1] == 128 * ranks  # the vocabulary's padding
    assert (got[..., : want.shape[-1]] - want).abs().max() <= 1e-5 * max(1.0, want.abs().max().item())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("ranks", RANKS)
def test_files_round_trip_bit_exactly_at_any_degree(pair, tmp_path, ranks, version):
    _, model = pair
    state = model.state_dict()
    export_megatron(model.config, state, tmp_path, ranks=4)  # nothing of it stays
    out = export_megatron(model.config, state, tmp_path, ranks=ranks, version=version)
    assert len(list(out.glob("mp_rank_*"))) == ranks
    back = import_megatron(out)
    assert (back.config, back.version, back.ranks) == (model.config, version, ranks)
    assert back.state.keys() == state.keys() and all(torch.equal(back.state[n], t) for n, t in state.items())
    (out / "megatron.json").unlink()
    given = import_megatron(out, config=model.config, version=version)
    assert all(torch.equal(given.state[n], t) for n, t in state.items())


def test_recut_to_hugging_face_and_back(pair, tmp_path):
    """Four ranks of version 0 -> GPT-2's layout -> two ranks of version 2.0: the same bits."""
    reference, model = pair
    first = import_megatron(
        export_megatron(model.config, model.state_dict(), tmp_path / "a", ranks=4, version="0")
    )
    hf = export_hf(ModelConfig(family="turing_nlg"), first.config, first.state, None, tmp_path / "hf")
    written = load_file(hf / "model.safetensors")
    for name, tensor in written.items():
        assert torch.equal(tensor, reference.state_dict()[name])
    second = import_hf(hf, family="turing_nlg")
    last = import_megatron(export_megatron(second.config, second.state, tmp_path / "b", ranks=2))
    assert all(torch.equal(last.state[n], t) for n, t in model.state_dict().items())


def test_turing_nlg_has_the_documented_shapes():
    """The published model at four ranks, as DeepSpeed documents it; on the meta device."""
    config = FAMILIES["turing_nlg"].presets["17b"]
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    shares = split(state, config, 4, "0")
    layer = "transformer.layers.77"
    documented = {
        "word_embeddings.weight": (12672, 4256),
        "position_embeddings.weight": (1024, 4256),
        f"{layer}.attention.query_key_value.weight": (3192, 4256),
        f"{layer}.attention.query_key_value.bias": (3192,),
        f"{layer}.attention.dense.weight": (4256, 1064),
        f"{layer}.attention.dense.bias": (4256,),
        f"{layer}.mlp.dense_h_to_4h.weight": (4256, 4256),
        f"{layer}.mlp.dense_h_to_4h.bias": (4256,),
        f"{layer}.mlp.dense_4h_to_h.weight": (4256, 4256),
        f"{layer}.mlp.dense_4h_to_h.bias": (4256,),
        f"{layer}.input_layernorm.weight": (4256,),
        "transformer.final_layernorm.bias": (4256,),
    }
    assert len(shares) == 4 and len(shares[0]) == 4 + 78 * 12
    for name, shape in documented.items():
        assert all(tuple(share[name].shape) == shape for share in shares), name


def test_padding_rows_are_kept(pair):
    """Rows that pad the vocabulary are trained a little in Megatron: they come back as they were."""
    _, model = pair
    config = model.config.replace(vocab_rows=256)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    state["embeddings.token.weight"] = torch.randn(256, config.d_model)
    back = merge(split(state, config, 2, "1.0"), config, "1.0")
    assert torch.equal(back["embeddings.token.weight"], state["embeddings.token.weight"])


def test_what_is_wrong_is_told(pair, tmp_path):
    _, model = pair
    config, state = model.config, model.state_dict()
    with pytest.raises(ConfigError, match="ranks = 3 does not divide n_heads = 4.* nearest legal value: 2"):
        split(state, config, 3)
    with pytest.raises(ConfigError, match=r"version = '2'.*'2.0'"):
        split(state, config, 2, "2")
    with pytest.raises(WeightsError, match="not a GPT-2: norm = 'rms'"):
        split(state, config.replace(norm="rms"), 2)
    with pytest.raises(WeightsError, match="tied = false"):
        split(state, config.replace(tied=False), 2)
    shares = split(state, config, 2)
    name = "transformer.layers.0.mlp.dense_h_to_4h.weight"
    with pytest.raises(WeightsError, match=rf"ranks 0 and 1 have not the same tensors: {name}"):
        merge([shares[0], {n: t for n, t in shares[1].items() if n != name}], config)
    with pytest.raises(WeightsError, match=rf"1 missing: {name}"):
        merge([{n: t for n, t in s.items() if n != name} for s in shares], config)
    with pytest.raises(WeightsError, match="1 unexpected: lm_head.weight"):
        merge([{**s, "lm_head.weight": torch.zeros(2)} for s in shares], config)
    with pytest.raises(WeightsError, match=rf"{name} of rank 1 is \[63, 32\], not \[64, 32\]"):
        merge([shares[0], {**shares[1], name: shares[1][name][:-1]}], config)
    norm = "transformer.final_layernorm.weight"
    with pytest.raises(WeightsError, match=f"{norm} differs between ranks 0 and 1"):
        merge([shares[0], {**shares[1], norm: shares[1][norm] + 1}], config)


def test_wrong_folders_are_told(pair, tmp_path):
    _, model = pair
    with pytest.raises(WeightsError, match="no mp_rank_00.safetensors is there$"):
        import_megatron(tmp_path)
    (tmp_path / "mp_rank_00").mkdir()
    (tmp_path / "mp_rank_00" / "model_states.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="model_states.pt is a pickle.* convert each rank's once"):
        import_megatron(tmp_path)
    out = export_megatron(model.config, model.state_dict(), tmp_path / "out", ranks=2)
    (out / "mp_rank_01.safetensors").rename(out / "mp_rank_02.safetensors")
    with pytest.raises(WeightsError, match="holds mp_rank_00.*, mp_rank_02.safetensors; needed are"):
        import_megatron(out)
    (out / "mp_rank_02.safetensors").write_bytes(b"short")
    (out / "mp_rank_02.safetensors").rename(out / "mp_rank_01.safetensors")
    with pytest.raises(WeightsError, match=r"mp_rank_01.safetensors: damaged or truncated"):
        import_megatron(out)
    settings = out / "megatron.json"
    for text, message in (("{", "not valid JSON"), ("[]", "not an object")):
        settings.write_text(text)
        with pytest.raises(WeightsError, match=message):
            import_megatron(out)
    settings.write_text(json.dumps({"config": {"d_modle": 3}}))
    with pytest.raises(ConfigError, match="d_model"):
        import_megatron(out)
    settings.unlink()
    with pytest.raises(WeightsError, match=r"without megatron.json, give the model's config"):
        import_megatron(out)
    with pytest.raises(WeightsError, match=r"without megatron.json, give the version: 0, 1.0, 2.0"):
        import_megatron(out, config=model.config)


def test_every_tensor_has_an_axis(pair):
    _, model = pair
    (share,) = split(model.state_dict(), model.config, 1)
    assert {n.replace(".0.", ".{i}.").replace(".1.", ".{i}.") for n in share} == set(AXES)


def test_saved_shares_are_plain_safetensors(pair, tmp_path):
    """What another program writes is read, if the names are Megatron's."""
    _, model = pair
    for rank, share in enumerate(split(model.state_dict(), model.config, 2, "1.0")):
        save_file({n: t.contiguous() for n, t in share.items()}, tmp_path / f"mp_rank_{rank:02}.safetensors")
    back = import_megatron(tmp_path, config=model.config, version="1.0")
    assert all(torch.equal(back.state[n], t) for n, t in model.state_dict().items())
