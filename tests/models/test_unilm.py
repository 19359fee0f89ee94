"""UniLM: checkpoints of v2's pre-training, and reading in every direction with one network."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.errors import WeightsError
from mainspring.models import FAMILIES
from mainspring.models.hub import import_hf
from mainspring.nn.config import Absolute, T5Bias

from .battery import ours, random_reference
from .references import CASES

CASE = next(c for c in CASES if str(c) == "unilm-v2")


@torch.inference_mode()
def test_a_pre_training_checkpoint_is_read(tmp_path):
    """One matrix of queries, keys and values, biases for queries and values: keys have none."""
    reference = random_reference(CASE)
    for layer in reference.bert.encoder.layer:
        layer.attention.self.key.bias.zero_()
    model = ours(CASE, reference)
    state = dict(model.state_dict())
    there = FAMILIES["unilm"].weights.write(state, model.config)
    for i in range(2):
        root = f"bert.encoder.layer.{i}.attention.self"
        there[f"{root}.qkv_linear.weight"] = torch.cat(
            [there.pop(f"{root}.{part}.weight") for part in ("query", "key", "value")]
        )
        there[f"{root}.q_bias"] = there.pop(f"{root}.query.bias")
        there[f"{root}.v_bias"] = there.pop(f"{root}.value.bias")
        del there[f"{root}.key.bias"]
    there["bert.encoder.rel_pos_bias.weight"] = there.pop("bert.rel_pos_bias.weight")
    save_file({n: t.contiguous() for n, t in there.items()}, tmp_path / "model.safetensors")
    values = FAMILIES["unilm"].to_hf(model.config)
    (tmp_path / "config.json").write_text(json.dumps(values))
    back = import_hf(tmp_path)
    assert back.family == "unilm" and back.config == model.config
    assert all(torch.equal(back.state[n], t) for n, t in state.items())


@torch.inference_mode()
def test_one_network_reads_in_every_direction():
    """Left to right it is blind to what follows; from a source to a target, only the target is."""
    model = ours(CASE, random_reference(CASE))
    ids = torch.randint(4, 80, (1, 10), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, -1] = 3
    plan = {
        "both": (bidirectional_batch(ids), 0),
        "left": (causal_batch(ids), 9),
        "source": (bidirectional_batch(ids)._replace(rank=torch.tensor([[0] * 6 + [1, 2, 3, 4]])), 9),
    }
    for name, (batch, blind) in plan.items():
        a, b = model(batch).logits, model(batch._replace(ids=changed)).logits
        same = [torch.equal(a[0, t], b[0, t]) for t in range(10)]
        assert all(same[:blind]) and not any(same[blind:]), name


def test_other_biases_are_refused():
    config = FAMILIES["unilm"].presets["tiny"]
    for bias in (T5Bias(gate="query"), T5Bias(bidirectional=False)):
        with pytest.raises(WeightsError, match="positions = "):
            FAMILIES["unilm"].to_hf(config.model_copy(update={"positions": (Absolute(), bias)}))
