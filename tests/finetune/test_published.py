"""Task heads beside transformers': the same logits from the same weights, both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from mainspring.data.batch import TokenBatch, bidirectional_batch, pad_rows
from mainspring.errors import WeightsError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.published import PUBLISHED, export_task, import_task
from mainspring.models import FAMILIES
from mainspring.models.files import read_json, write_json
from mainspring.models.roberta import padded_positions
from mainspring.nn import initialize

V = 60
COMMON: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 42,
    "initializer_range": 0.3,
}
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "pooler_hidden_size": 32,
}
CONFIGS = {
    "bert": hf.BertConfig(**COMMON),
    "roberta": hf.RobertaConfig(**COMMON, type_vocab_size=1, pad_token_id=1),
    "xlm_r": hf.XLMRobertaConfig(**COMMON, type_vocab_size=1, pad_token_id=1),
    "xlm_r_xl": hf.XLMRobertaXLConfig(**COMMON, type_vocab_size=1, pad_token_id=1),
    "deberta": hf.DebertaConfig(**COMMON, **DEBERTA, type_vocab_size=0),
    "deberta_v2": hf.DebertaV2Config(
        **COMMON,
        **DEBERTA,
        type_vocab_size=0,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    ),
    "electra": hf.ElectraConfig(**COMMON, embedding_size=16, type_vocab_size=2),
}
KINDS = {
    "classify": (hf.AutoModelForSequenceClassification, 3),
    "score": (hf.AutoModelForSequenceClassification, 1),
    "tag": (hf.AutoModelForTokenClassification, 5),
    "span": (hf.AutoModelForQuestionAnswering, 2),
}


def rows(family: str) -> TokenBatch:
    ids, valid = pad_rows([[2, 5, 9, 40, 33, 7], [2, 11, 12, 3]], pad=1)
    batch = bidirectional_batch(ids, valid=valid)
    counted = family in ("roberta", "xlm_r", "xlm_r_xl")
    return batch._replace(pos=padded_positions(valid)) if counted else batch


@torch.no_grad()
def theirs(model: Any, batch: TokenBatch) -> torch.Tensor:
    given = model(input_ids=batch.ids, attention_mask=batch.valid.long())
    return (
        torch.stack([given.start_logits, given.end_logits], -1) if "start_logits" in given else given.logits
    )


def only_valid(logits: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    return logits[batch.valid] if logits.ndim == 3 else logits


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_the_same_logits_both_ways(family: str, task: str, tmp_path: Path) -> None:
    kind, labels = KINDS[task]
    torch.manual_seed(0)
    config = CONFIGS[family].__class__.from_dict(CONFIGS[family].to_dict() | {"num_labels": labels})
    reference = kind.from_config(config, attn_implementation="eager").eval()
    reference.save_pretrained(tmp_path / "theirs")
    imported = import_task(tmp_path / "theirs")
    assert imported.family == family and imported.head.task == task
    model = imported.model().eval()
    batch = rows(family)
    expected = only_valid(theirs(reference, batch), batch)
    with torch.no_grad():
        torch.testing.assert_close(only_valid(model(batch), batch), expected, atol=1e-5, rtol=1e-5)
    export_task(family, model, None, tmp_path / "ours")
    again, report = kind.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(only_valid(theirs(again.eval(), batch), batch), expected, atol=1e-5, rtol=1e-5)


def test_labels_and_kinds_of_problem_come_along(tmp_path: Path) -> None:
    head = HeadConfig(task="classify", labels=("no", "perhaps", "yes"), several=True, dropout=0.2)
    model = initialize(TaskModel(FAMILIES["bert"].presets["tiny"].replace(vocab_size=V), head), seed=0)
    export_task("bert", model, None, tmp_path)
    assert import_task(tmp_path).head == head
    reloaded = hf.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert reloaded.config.id2label == {0: "no", 1: "perhaps", 2: "yes"}


def test_what_is_no_task_model_is_refused(tmp_path: Path) -> None:
    head = HeadConfig(task="span")
    config = FAMILIES["bert"].presets["tiny"].replace(vocab_size=V)
    model = initialize(TaskModel(config, head), seed=0)
    with pytest.raises(WeightsError, match="gpt2 has no published task models"):
        export_task("gpt2", model, None, tmp_path)
    export_task("bert", model, None, tmp_path)
    values = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", values | {"architectures": ["BertForMultipleChoice"]})
    with pytest.raises(WeightsError, match="is no task model; those end in ForSequenceClassification"):
        import_task(tmp_path)
    write_json(tmp_path / "config.json", values | {"architectures": ["BertForTokenClassification"]})
    with pytest.raises(WeightsError, match=r"unexpected: .*qa_outputs"):
        import_task(tmp_path)


def test_every_family_named_exists() -> None:
    assert set(PUBLISHED) <= set(FAMILIES)
