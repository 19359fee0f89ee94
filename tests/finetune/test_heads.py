"""Heads over a pretrained encoder train with a plain loop."""

import pytest
import torch
import torch.nn.functional as F

from mainspring.data.batch import bidirectional_batch
from mainspring.errors import ConfigError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.native import export_native_task, import_native_task
from mainspring.nn import Transformer, TransformerConfig, initialize

CONFIG = TransformerConfig(
    d_model=32, n_heads=4, n_layers=1, d_ff=64, vocab_size=20, max_positions=8, pooler=True, type_vocab=2
)


def texts(count: int, seed: int) -> torch.Tensor:
    return torch.randint(2, 20, (count, 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", ["classify", "tag", "span", "score"])
def test_a_head_over_a_pretrained_encoder_learns(task: str) -> None:
    pretrained = initialize(Transformer(CONFIG), seed=0)
    labels = ("absent", "present") if task in ("classify", "tag") else ()
    model = TaskModel.over(
        CONFIG, pretrained.state_dict(), HeadConfig.model_validate({"task": task, "labels": labels})
    )
    initialize(model.head, seed=1)
    assert torch.equal(
        model.encoder.layers[0].attention.qkv.weight, pretrained.layers[0].attention.qkv.weight
    )
    assert not any(
        name.startswith(("encoder.head", "encoder.pooler")) for name, _ in model.named_parameters()
    )
    ids = texts(64, 2)
    ids[::2, 3] = 5  # what is to be found
    found = ids == 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    model.train()
    for _ in range(200):
        logits = model(bidirectional_batch(ids))
        if task == "classify":
            loss = F.cross_entropy(logits, found.any(1).long())
        elif task == "tag":
            loss = F.cross_entropy(logits.flatten(0, 1), found.flatten().long())
        elif task == "span":
            first = torch.where(found.any(1), found.long().argmax(1), 0)
            loss = F.cross_entropy(logits[..., 0], first) + F.cross_entropy(logits[..., 1], first)
        else:
            loss = F.mse_loss(logits[:, 0], found.sum(1).float())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.35 * losses[0], losses


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="a task head stands on a single stack"):
        TaskModel(CONFIG.replace(n_layers=0, encoder_layers=1, decoder_layers=1), HeadConfig(task="span"))
    with pytest.raises(ValueError, match="needs two labels or more"):
        HeadConfig(task="tag", labels=("O",))
    with pytest.raises(ValueError, match="has no labels"):
        HeadConfig(task="span", labels=("a", "b"))
    with pytest.raises(ValueError, match="names one twice"):
        HeadConfig(task="tag", labels=("a", "a"))


def test_files_of_our_own(tmp_path) -> None:
    model = initialize(TaskModel(CONFIG, HeadConfig(task="tag", labels=("O", "X"), dropout=0.3)), seed=0)
    export_native_task(model, None, tmp_path, family="bert")
    settings, state = import_native_task(tmp_path)
    assert settings.head == model.head_config and settings.config == model.encoder.config
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
