"""The Hugging Face layout: transformers loads what we write, we read it back, what is wrong is told."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.errors import WeightsError
from mainspring.models import FAMILIES, ModelConfig, resolve
from mainspring.models.hub import export_hf, import_hf
from mainspring.nn import Transformer, initialize
from mainspring.text.train import train_tokenizer

TEXTS = ["hello world, these are some words to count", "another line of text, the world of words"] * 40
AUTO = {"gpt2": AutoModelForCausalLM, "bert": AutoModelForMaskedLM}


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def written(request, tmp_path_factory):
    """A model and tokenizer of a family, exported."""
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    tokenizer = train_tokenizer(TEXTS, "bpe" if family == "gpt2" else "wordpiece", 290)
    tokenizer.save(folder / "tokenizer.json")
    model = ModelConfig(family=family, preset="tiny")
    config = resolve(model, tokenizer.vocab_size)
    net = initialize(Transformer(config), 0).eval()
    out = export_hf(model, config, net.state_dict(), folder / "tokenizer.json", folder / "hf")
    return family, tokenizer, net, out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@torch.inference_mode()
def test_transformers_loads_it(written):
    family, tokenizer, net, out = written
    theirs, their_tokenizer = AUTO[family].from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert theirs.dtype == torch.float32 and type(theirs).__name__ == theirs.config.architectures[0]
    text = "hello, another world of lines"
    ids = their_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode(text)
    for role in ("eos", "pad", "mask", "cls", "sep", "unk"):
        assert getattr(their_tokenizer, f"{role}_token_id") == getattr(tokenizer, role)
    batch = (causal_batch if family == "gpt2" else bidirectional_batch)(torch.tensor([ids]))
    assert (net(batch).logits - theirs(batch.ids).logits).abs().max() < 1e-5
    assert theirs.config.eos_token_id == tokenizer.eos and theirs.config.pad_token_id == tokenizer.pad
    if family == "gpt2":
        assert theirs.generation_config.eos_token_id == tokenizer.eos


def test_it_reads_back_bit_exactly(written):
    family, _, net, out = written
    imported = import_hf(out)
    assert imported.family == family and imported.config == net.config and imported.missing == ()
    assert imported.config.rows % 64 == 0
    state = net.state_dict()
    assert imported.state.keys() == state.keys()
    assert all(torch.equal(imported.state[n], t) for n, t in state.items())


@pytest.mark.parametrize("shard_bytes", [10**5, 10**9])
@torch.inference_mode()
def test_shards(written, tmp_path, shard_bytes):
    family, _, net, _ = written
    model = ModelConfig(family=family, preset="tiny")
    for size in (10**6, shard_bytes):  # the second export leaves nothing of the first
        export_hf(model, net.config, net.state_dict(), None, tmp_path, shard_bytes=size)
    files = list(tmp_path.glob("*.safetensors"))
    assert (len(files) > 3) == (shard_bytes == 10**5)
    state = import_hf(tmp_path).state
    assert all(torch.equal(state[n], t) for n, t in net.state_dict().items())
    theirs = AUTO[family].from_pretrained(tmp_path).eval()
    ids = torch.arange(7)[None]
    batch = (causal_batch if family == "gpt2" else bidirectional_batch)(ids)
    assert (net(batch).logits - theirs(ids).logits).abs().max() < 1e-5
    if len(files) > 1:
        files[0].unlink()
        with pytest.raises(WeightsError, match="names this file and it is not there"):
            import_hf(tmp_path)


@pytest.mark.parametrize(
    ("family", "theirs"),
    [
        (
            "gpt2",
            lambda: GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=60,
                    n_embd=32,
                    n_layer=2,
                    n_head=2,
                    n_positions=16,
                    bos_token_id=0,
                    eos_token_id=0,
                )
            ),
        ),
        (
            "bert",
            lambda: BertForMaskedLM(
                BertConfig(
                    vocab_size=60,
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    intermediate_size=64,
                    max_position_embeddings=16,
                )
            ),
        ),
    ],
)
@torch.inference_mode()
def test_what_transformers_writes_is_read(family, theirs, tmp_path):
    model = theirs().eval()
    model.save_pretrained(tmp_path)
    imported = import_hf(tmp_path)
    ours = Transformer(imported.config).eval()
    ours.load_state_dict(imported.state)
    ids = torch.randint(60, (2, 11))
    batch = (causal_batch if family == "gpt2" else bidirectional_batch)(ids)
    assert (ours(batch).logits - model(ids).logits).abs().max() < 1e-5


def test_half_precision_is_kept(tmp_path):
    model = ModelConfig(family="gpt2", preset="tiny")
    config = resolve(model, 70)
    net = initialize(Transformer(config), 0).to(torch.bfloat16)
    export_hf(model, config, net.state_dict(), None, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert import_hf(tmp_path).state["norm.weight"].dtype == torch.bfloat16


def test_a_model_that_is_not_of_the_family_is_not_written(tmp_path):
    config = FAMILIES["gpt2"].presets["tiny"].replace(norm="rms", positions=[{"kind": "rotary"}])
    with pytest.raises(
        WeightsError, match=r"not a GPT-2: positions = .*rotary.* norm = 'rms' \(GPT-2: 'layer'\)"
    ):
        export_hf(ModelConfig(family="gpt2"), config, {}, None, tmp_path / "out")
    with pytest.raises(WeightsError, match="GPT-2 has no activation 'swiglu'"):
        export_hf(
            ModelConfig(family="gpt2"),
            config.replace(norm="layer", activation="swiglu", positions=[{"kind": "absolute"}]),
            {},
            None,
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_told(written, tmp_path):
    *_, out = written
    with pytest.raises(WeightsError, match="config.json: cannot be read"):
        import_hf(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="not valid JSON"):
        import_hf(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt3"}')
    with pytest.raises(WeightsError, match="model_type 'gpt3'; did you mean 'gpt2'"):
        import_hf(tmp_path)
    values = json.loads((out / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="neither model.safetensors nor"):
        import_hf(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="pytorch_model.bin is a pickle.* convert it once"):
        import_hf(tmp_path)
    whole = (out / "model.safetensors").read_bytes()
    for damaged in (whole[:-100], whole[:50], b""):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(WeightsError, match="damaged or truncated"):
            import_hf(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(WeightsError, match="not the name of a file beside it"):
        import_hf(tmp_path)


def test_unsupported_variants_are_told(written, tmp_path):
    family, _, _, out = written
    values = json.loads((out / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes())
    wrong = (
        ({"scale_attn_by_inverse_layer_idx": True}, "activation_function", "n_embd")
        if family == "gpt2"
        else ({"position_embedding_type": "relative_key"}, "hidden_act", "hidden_size")
    )
    for change, message in (
        (wrong[0], "is not supported; only"),
        ({wrong[1]: "gelu_nwe"}, "did you mean 'gelu_new'"),
        ({wrong[2]: None}, "a whole number is needed"),
        ({wrong[2]: 64}, "of another shape"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(WeightsError, match=message):
            import_hf(tmp_path)
