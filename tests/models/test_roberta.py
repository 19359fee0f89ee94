"""RoBERTa's positions, and its padding token."""

import pytest
import torch
from transformers import RobertaForMaskedLM
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from mainspring.data.batch import bidirectional_batch
from mainspring.errors import WeightsError
from mainspring.models import FAMILIES, ModelConfig, resolve
from mainspring.models.hub import export_hf, import_hf
from mainspring.models.roberta import padded_positions
from mainspring.nn import Transformer, initialize
from mainspring.text.train import train_tokenizer


def test_positions_are_transformers():
    valid = torch.rand(5, 12, generator=torch.Generator().manual_seed(0)) < 0.6
    ids = torch.where(valid, 7, 1)
    theirs = RobertaEmbeddings.create_position_ids_from_input_ids(ids, 1)
    assert torch.equal(padded_positions(valid) + 2, theirs)


def test_an_activation_that_its_head_has_not_is_refused():
    config = FAMILIES["roberta"].presets["tiny"].replace(activation="relu")
    with pytest.raises(WeightsError, match="RoBERTa's prediction head always uses gelu"):
        FAMILIES["roberta"].to_hf(config)
    bare = config.replace(head="none", head_transform=False, head_bias=False)
    assert FAMILIES["roberta"].to_hf(bare)["architectures"] == ["RobertaModel"]


def test_a_padding_token_that_its_positions_contradict_is_refused(tmp_path):
    """transformers reads the offset of positions from the padding token's number."""
    tokenizer = train_tokenizer(["some words of text"] * 20, "wordpiece", 80)
    tokenizer.save(tmp_path / "tokenizer.json")
    model = ModelConfig(family="roberta", preset="tiny")
    config = resolve(model, tokenizer.vocab_size)
    state = initialize(Transformer(config), 0).state_dict()
    assert tokenizer.pad == 0
    with pytest.raises(WeightsError, match="needs padding to be token 1; the tokenizer's is 0"):
        export_hf(model, config, state, tmp_path / "tokenizer.json", tmp_path / "out")


@torch.inference_mode()
def test_another_padding_token_has_its_own_offset(tmp_path):
    """A model whose tokenizer pads with 0 begins its positions at row 1, as transformers would."""
    tokenizer = train_tokenizer(["some words of text"] * 20, "wordpiece", 80)
    tokenizer.save(tmp_path / "tokenizer.json")
    positions = [{"kind": "absolute", "offset": 1}]
    model = ModelConfig(family="roberta", preset="tiny", config={"positions": positions})
    net = initialize(Transformer(resolve(model, tokenizer.vocab_size)), 0).eval()
    out = export_hf(model, net.config, net.state_dict(), tmp_path / "tokenizer.json", tmp_path / "out")
    assert import_hf(out).config == net.config
    ids = torch.tensor([[9, 8, 7], [6, 5, 0]])
    theirs = RobertaForMaskedLM.from_pretrained(out).eval()
    want = theirs(ids, attention_mask=(ids != 0).long()).logits
    got = net(bidirectional_batch(ids, valid=ids != 0)).logits
    assert (got - want)[ids != 0].abs().max() <= 1e-5
    without = net.config.replace(positions=[{"kind": "absolute"}])
    with pytest.raises(WeightsError, match="RoBERTa's positions begin after the padding token's number"):
        FAMILIES["roberta"].to_hf(without)


def test_families_that_share_a_layout(tmp_path):
    model = ModelConfig(family="infoxlm", preset="tiny")
    config = resolve(model, 90)
    state = initialize(Transformer(config), 0).state_dict()
    out = export_hf(model, config, state, None, tmp_path)
    assert import_hf(out).family == "xlm_r" and import_hf(out, family="infoxlm").family == "infoxlm"
    with pytest.raises(WeightsError, match="family = 'infoxml': no such family; did you mean 'infoxlm'"):
        import_hf(out, family="infoxml")
