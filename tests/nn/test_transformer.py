"""The one transformer: every configuration learns, recomputes, selects and embeds alike; oracles agree."""

import itertools
import resource

import pytest
import torch
import torch.nn.functional as F
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.errors import UsageError
from mainspring.nn import Absolute, Rotary, T5Bias, Transformer, TransformerConfig, initialize
from support.spawn import run_ranks

SHAPES = {
    "gpt2": {"activation": "gelu_tanh", "vocab_rows": 64},
    "wide": {"activation": "gelu", "d_model": 256, "d_ff": 512},  # products large enough for oneDNN
    "bert": {
        "norm_place": "post",
        "embed_norm": True,
        "type_vocab": 2,
        "head_transform": True,
        "head_bias": True,
        "pooler": True,
        "pair_classes": 2,
        "vocab_rows": 64,
        "scale_residual": False,
    },
    "llama": {"norm": "rms", "activation": "swiglu", "positions": (Rotary(),), "bias": False, "tied": False},
    "t5": {
        "norm": "rms",
        "activation": "relu",
        "positions": (T5Bias(bidirectional=False),),
        "bias": False,
        "attention_scale": 1.0,
        "n_layers": 0,
        "encoder_layers": 2,
        "decoder_layers": 2,
    },
    "all": {
        "norm_place": "post",
        "activation": "geglu",
        "positions": (Absolute(offset=2), Rotary(), T5Bias()),
        "head_dim": 6,
        "n_layers": 0,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "tied": False,
        "vocab_rows": 64,
    },
}


def build(shape, **other):
    values = {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "d_ff": 64,
        "vocab_size": 50,
        "max_positions": 40,
        **SHAPES[shape],
        **other,
    }
    return initialize(Transformer(TransformerConfig(**values)), 0)


def inputs(model, rows=3, length=12, seed=0):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(50, (rows, length), generator=draw)
    batch = causal_batch(ids)
    source = bidirectional_batch(ids.flip(1)) if model.encoder is not None else None
    return batch, source


@pytest.mark.parametrize("shape", SHAPES)
def test_learns(shape):
    model = build(shape)
    batch, source = inputs(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        logits = model(batch, source=source).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch.ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    if model.config.rows > 50:  # rows that pad the vocabulary get no gradient and stay zero
        table = model.embeddings.token if model.config.tied else model.head.table
        assert logits.shape[-1] == 50 and (table.weight[50:] == 0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_recomputation_gives_the_same_gradients(shape):
    model = build(shape, dropout=0.1, attention_dropout=0.1)
    batch, source = inputs(model)
    gradients = []
    for model.remat in (False, True):
        torch.manual_seed(0)
        model.zero_grad()
        out = model(batch, source=source)
        (out.logits.logsumexp(-1).sum() + out.hidden.square().sum()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for (name, _), a, b in zip(model.named_parameters(), *gradients, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b)), name


@pytest.mark.parametrize("shape", SHAPES)
def test_selected_logits_equal_indexing(shape):
    model = build(shape).eval()
    batch, source = inputs(model)
    select = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    whole = model(batch, source=source).logits
    torch.testing.assert_close(
        model(batch, source=source, select=select).logits, whole[select], atol=1e-6, rtol=1e-6
    )
    assert model(batch, source=source, select=torch.zeros_like(select)).logits.shape == (0, 50)


@pytest.mark.parametrize("shape", SHAPES)
def test_embeddings_given_equal_ids_given(shape):
    model = build(shape).eval()
    batch, source = inputs(model)
    embeds = model.embed(batch).detach().requires_grad_()
    out = model(batch, source=source, embeds=embeds)
    assert torch.equal(out.logits, model(batch, source=source).logits)
    (gradient,) = torch.autograd.grad(out.logits.square().sum(), embeds)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_states_are_each_layers_output(shape):
    model = build(shape).eval()
    batch, source = inputs(model)
    out = model(batch, source=source, states=True)
    assert len(out.states) == model.config.depth + 1
    assert torch.equal(out.states[0], model.embed(batch))
    last = out.states[-1]
    assert torch.equal(out.hidden, last if model.norm is None else model.norm(last))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(out.states))
    assert model(batch, source=source).states is None


@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_runs_near_full(shape):
    model = build(shape).eval()
    batch, source = inputs(model)
    with torch.no_grad():
        full = model(batch, source=source).logits
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(batch, source=source).logits
        half = model.to(torch.bfloat16)(batch, source=source).logits
    for got in (mixed, half):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), full, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_documents_equal_each_alone(shape):
    model = build(shape).eval()
    first, second = torch.randint(50, (1, 5)), torch.randint(50, (1, 7))
    doc = torch.tensor([[0] * 5 + [1] * 7])
    both = torch.cat([first, second], 1)
    packed_source = bidirectional_batch(both, doc=doc) if model.encoder is not None else None
    packed = model(causal_batch(both, doc=doc), source=packed_source).logits
    alone = [
        model(causal_batch(ids), source=None if packed_source is None else bidirectional_batch(ids)).logits
        for ids in (first, second)
    ]
    torch.testing.assert_close(packed, torch.cat(alone, 1), atol=2e-5, rtol=1e-5)


def test_segments_and_summary():
    model = build("bert").eval()
    batch, _ = inputs(model)
    zero = model(batch)
    assert zero.summary.shape == (3, 32) and zero.pair_logits.shape == (3, 2)
    assert torch.equal(zero.logits, model(batch._replace(type=torch.zeros_like(batch.ids))).logits)
    assert not torch.equal(zero.logits, model(batch._replace(type=torch.ones_like(batch.ids))).logits)


def test_dropout_is_for_training_only():
    model = build("gpt2", dropout=0.3, attention_dropout=0.3)
    batch, _ = inputs(model)
    assert not torch.equal(model(batch).logits, model(batch).logits)
    model.eval()
    assert torch.equal(model(batch).logits, model(batch).logits)


def test_what_is_out_of_range_is_named():
    model = build("gpt2")
    ids = torch.zeros(1, 41, dtype=torch.int64)
    with pytest.raises(UsageError, match="position 40 and the model has 40 positions"):
        model(causal_batch(ids))
    with pytest.raises(UsageError, match="token id 64 is outside the vocabulary"):
        model(causal_batch(ids[:, :3] + 64))
    with pytest.raises(UsageError, match="token id -1"):
        model(causal_batch(ids[:, :3] - 1))


def test_every_parameter_is_of_a_torch_module():
    """Sharding and tensor parallelism know torch's own modules; only the head's bias stands by itself."""
    for shape in SHAPES:
        model = build(shape)
        known = (torch.nn.Linear, torch.nn.Embedding, torch.nn.LayerNorm, torch.nn.RMSNorm)
        for name, module in model.named_modules():
            own = [n for n, _ in module.named_parameters(recurse=False)]
            assert not own or isinstance(module, known) or (name == "head" and own == ["bias"])


def test_blocks_are_all_layers_in_order():
    model = build("all")
    assert model.blocks() == [model.encoder[0], model.layers[0], model.layers[1]]


def test_construction_on_meta_takes_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.device("meta"):
        model = Transformer(
            TransformerConfig(d_model=1600, n_heads=25, n_layers=48, d_ff=6400, vocab_size=50257)
        )
    assert sum(p.numel() for p in model.parameters()) == 1_557_611_200
    assert all(p.is_meta for p in model.parameters()) and not list(model.buffers())
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    )  # KiB; in memory it is 6 GB


def test_forward_on_meta_gives_shapes():
    with torch.device("meta"):
        model = Transformer(build("all").config)
        batch, source = (causal_batch(torch.zeros(2, 8, dtype=torch.int64)) for _ in range(2))
        assert model(batch, source=source).logits.shape == (2, 8, 50)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiles_to_the_same():
    model = build("gpt2", n_layers=1)
    batch, _ = inputs(model)
    want = model(batch).logits
    model.layers[0].compile(backend="aot_eager")
    torch.testing.assert_close(model(batch).logits, want)


def test_llama_is_a_configuration():
    """Rotary positions, RMS norm and SwiGLU against transformers' Llama."""
    theirs = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=2,
            intermediate_size=64,
            vocab_size=50,
            rms_norm_eps=1e-5,
            max_position_embeddings=40,
            tie_word_embeddings=False,
            initializer_range=0.2,
        )
    ).eval()
    ours = build("llama").eval()
    state = theirs.state_dict()
    new = {
        "embeddings.token.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "head.table.weight": state["lm_head.weight"],
    }
    for i in range(2):
        old = f"model.layers.{i}."
        q, k, v = (state[f"{old}self_attn.{p}_proj.weight"].view(4, 8, 32) for p in "qkv")
        gate, up = (state[f"{old}mlp.{p}_proj.weight"] for p in ("gate", "up"))
        new |= {
            f"layers.{i}.attention.qkv.weight": torch.stack([q, k, v], 1).reshape(96, 32),
            f"layers.{i}.attention.out.weight": state[f"{old}self_attn.o_proj.weight"],
            f"layers.{i}.attention_norm.weight": state[f"{old}input_layernorm.weight"],
            f"layers.{i}.feed_forward_norm.weight": state[f"{old}post_attention_layernorm.weight"],
            f"layers.{i}.feed_forward.up.weight": torch.stack([gate, up], 1).reshape(128, 32),
            f"layers.{i}.feed_forward.down.weight": state[f"{old}mlp.down_proj.weight"],
        }
    ours.load_state_dict(new)
    ids = torch.randint(50, (3, 17))
    with torch.no_grad():
        torch.testing.assert_close(ours(causal_batch(ids)).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gated-gelu"])
def test_t5_is_a_configuration(activation):
    """Encoder, decoder, cross-attention, relative bias and padding against transformers' T5."""
    gated = activation == "gated-gelu"
    theirs = T5ForConditionalGeneration(
        T5Config(
            d_model=32,
            d_kv=8,
            num_heads=4,
            num_layers=2,
            num_decoder_layers=2,
            d_ff=64,
            vocab_size=50,
            feed_forward_proj=activation,
            tie_word_embeddings=False,
            layer_norm_epsilon=1e-6,
        )
    ).eval()
    ours = build("t5", activation="geglu" if gated else "relu", tied=False, norm_eps=1e-6).eval()
    state = theirs.state_dict()

    def fuse(prefix, names):
        return torch.stack([state[f"{prefix}.{n}.weight"].view(4, 8, 32) for n in names], 1).reshape(-1, 32)

    head = state["lm_head.weight"]
    new = {"embeddings.token.weight": state["shared.weight"], "head.table.weight": head}
    for ours_stack, stack in (("encoder", "encoder"), ("layers", "decoder")):
        side = "encoder_" if stack == "encoder" else ""
        new[f"{side}norm.weight"] = state[f"{stack}.final_layer_norm.weight"]
        new[f"{side}bias.table.weight"] = state[
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ]
        for i in range(2):
            old, here = f"{stack}.block.{i}.layer", f"{ours_stack}.{i}"
            last = 1 if stack == "encoder" else 2
            new |= {
                f"{here}.attention.qkv.weight": fuse(f"{old}.0.SelfAttention", "qkv"),
                f"{here}.attention.out.weight": state[f"{old}.0.SelfAttention.o.weight"],
                f"{here}.attention_norm.weight": state[f"{old}.0.layer_norm.weight"],
                f"{here}.feed_forward_norm.weight": state[f"{old}.{last}.layer_norm.weight"],
                f"{here}.feed_forward.down.weight": state[f"{old}.{last}.DenseReluDense.wo.weight"],
            }
            dense = f"{old}.{last}.DenseReluDense"
            new[f"{here}.feed_forward.up.weight"] = (
                torch.stack([state[f"{dense}.wi_{p}.weight"] for p in (0, 1)], 1).reshape(128, 32)
                if gated
                else state[f"{dense}.wi.weight"]
            )
            if stack == "decoder":
                new |= {
                    f"{here}.cross.q.weight": state[f"{old}.1.EncDecAttention.q.weight"],
                    f"{here}.cross.kv.weight": fuse(f"{old}.1.EncDecAttention", "kv"),
                    f"{here}.cross.out.weight": state[f"{old}.1.EncDecAttention.o.weight"],
                    f"{here}.cross_norm.weight": state[f"{old}.1.layer_norm.weight"],
                }
    ours.load_state_dict(new)
    source, target = torch.randint(50, (3, 13)), torch.randint(50, (3, 9))
    valid = torch.arange(13)[None] < torch.tensor([[13], [5], [8]])
    with torch.no_grad():
        want = theirs(input_ids=source, attention_mask=valid.long(), decoder_input_ids=target).logits
        got = ours(causal_batch(target), source=bidirectional_batch(source, valid=valid)).logits
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


def sharded_gradients(rank, world, shape, remat):
    """Loss and gradients under FSDP2 beside one process, with a model that is told to recompute or not."""
    model = build(shape)
    batch, source = inputs(model, rows=2 * world)
    alone = build(shape)
    select = torch.ones_like(batch.ids, dtype=torch.bool)

    def loss(which, rows):
        part = TokenBatch(*(None if t is None else t[rows] for t in batch))
        other = None if source is None else TokenBatch(*(None if t is None else t[rows] for t in source))
        return which(part, source=other, select=select[rows]).logits.logsumexp(-1).mean()

    loss(alone, slice(None)).backward()
    model.remat = remat
    for block in model.blocks():
        fully_shard(block)
    fully_shard(model)
    loss(model, slice(2 * rank, 2 * rank + 2)).backward()
    for (name, p), q in zip(model.named_parameters(), alone.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if q.grad is not None:
            torch.testing.assert_close(p.grad.full_tensor(), q.grad, atol=1e-6, rtol=1e-4, msg=name)
    half = build(shape)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in half.blocks():
        fully_shard(block, mp_policy=policy)
    fully_shard(half, mp_policy=policy)
    half.remat = remat
    out = loss(half, slice(2 * rank, 2 * rank + 2))
    out.backward()
    assert half.embeddings.token.weight.grad is not None
    return out.item()


@pytest.mark.distributed
@pytest.mark.parametrize(("shape", "remat"), [("gpt2", False), ("wide", True), ("all", True)])
def test_sharded_by_fsdp(shape, remat):
    assert len(run_ranks(sharded_gradients, 2, shape, remat)) == 2
