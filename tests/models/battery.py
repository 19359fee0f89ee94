"""One battery for every family: a random tiny model of transformers beside ours.

A `Case` is a family, a reference model and how to call it. Each check is a function of a case.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mainspring.data.batch import TokenBatch, bidirectional_batch, causal_batch
from mainspring.errors import WeightsError
from mainspring.models import FAMILIES, ModelConfig
from mainspring.models.hub import export_hf, import_hf
from mainspring.nn import Transformer, initialize

VOCABULARY = 83
SHAPES = ((1, 1), (2, 7), (3, 33))
"""Rows and tokens."""


@dataclass(frozen=True)
class Case:
    """A reference model of a family."""

    family: str
    make: Callable[[], Any]
    """A reference with random weights; the same each time."""
    loads: Any = None
    """Class of transformers that loads our export (None: transformers has none)."""
    causal: bool = False
    segments: int = 0
    languages: int = 0
    offset: int = 0
    """Positions count valid tokens only, as RoBERTa's do; padding is token `offset - 1`."""
    source: bool = False
    """The reference is an encoder-decoder."""
    values: dict[str, Any] = field(default_factory=dict)
    """Fields over the reference's config.json."""
    call: Callable[[Any, TokenBatch, TokenBatch | None], torch.Tensor] | None = None
    """The reference's logits (None: as transformers takes the batch)."""
    prepare: Callable[[Any], None] | None = None
    """What the reference's random weights must satisfy."""
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.family


def random_reference(case: Case) -> Any:
    """The reference with every parameter at random, biases and norms too: an exchanged pair must show."""
    model = case.make()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = name.endswith(("norm.weight", "Norm.weight")) or "layer_norm" in name or ".ln_" in name
            parameter.copy_(noise * 0.15 + (1.0 if norm and name.endswith("weight") else 0.0))
        if case.prepare is not None:
            case.prepare(model)
    return model.eval()


def described(case: Case, reference: Any) -> dict[str, Any]:
    """config.json of the reference."""
    values = {**reference.config.to_dict(), "architectures": [type(reference).__name__], **case.values}
    return json.loads(json.dumps(values, default=str))


def ours(case: Case, reference: Any) -> Transformer:
    """Our model with the reference's weights."""
    family, state = FAMILIES[case.family], reference.state_dict()
    config = family.from_hf(described(case, reference), state.keys())
    model = Transformer(config).eval()
    model.load_state_dict(family.weights.read(state, config).state)
    return model


def batch(case: Case, rows: int, length: int, padded: str, seed: int = 0) -> TokenBatch:
    """Random tokens; padding on the right or left of rows that are shorter."""
    generator = torch.Generator().manual_seed(seed + length)
    pad = case.offset - 1 if case.offset else 0
    ids = torch.randint(4, VOCABULARY - 3, (rows, length), generator=generator)
    valid = None
    if padded:
        lengths = torch.tensor([length, max(1, length // 2), 1])[:rows, None]
        index = torch.arange(length)
        valid = index < lengths if padded == "right" else index >= length - lengths
        ids = ids.masked_fill(~valid, pad)
    built = (causal_batch if case.causal else bidirectional_batch)(ids, valid=valid)
    if case.offset and valid is not None:
        from mainspring.models.roberta import padded_positions

        built = built._replace(pos=padded_positions(valid))
    if case.segments:
        built = built._replace(type=(torch.arange(length) % case.segments).expand_as(ids))
    if case.languages:
        built = built._replace(lang=(torch.arange(length) // 3 % case.languages).expand_as(ids))
    return built


def run_reference(case: Case, reference: Any, data: TokenBatch, source: TokenBatch | None) -> torch.Tensor:
    """The reference's logits."""
    if case.call is not None:
        return case.call(reference, data, source)
    given: dict[str, Any] = {}
    if source is not None:
        given["decoder_input_ids"] = data.ids
        data = source
    given["input_ids"] = data.ids
    given["attention_mask"] = None if data.valid is None else data.valid.long()
    if data.type is not None:
        given["token_type_ids"] = data.type
    if data.lang is not None:
        given["langs"] = data.lang
    out = reference(**given)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


@torch.inference_mode()
def check_parity(case: Case, padded: str) -> None:
    """Logits (a bare encoder: hidden states) equal the reference's within 1e-5 at valid tokens."""
    reference = random_reference(case)
    model = ours(case, reference)
    for rows, length in SHAPES:
        source = batch(case, rows, length, padded) if case.source else None
        target = Case(case.family, case.make, causal=True, offset=case.offset) if case.source else case
        data = batch(target, rows, length if source is None else 5, "" if source is not None else padded, 1)
        want = run_reference(case, reference, data, source)
        out = model(data) if source is None else model(data, source=source)
        got = out.hidden if model.config.head == "none" else out.logits
        got = got.squeeze(-1) if want.ndim == 2 else got
        assert got.shape == want.shape
        where = torch.ones_like(data.ids, dtype=torch.bool) if data.valid is None else data.valid
        scale = max(1.0, want[where].abs().max().item())
        error = (got - want)[where].abs().max().item()
        assert error <= 1e-5 * scale, f"{case} {rows}x{length}: {error:.1e} of {scale:.1f}"


def check_round_trip(case: Case) -> None:
    """Their state through ours and back, and ours through theirs, bit for bit; the configuration as well."""
    reference = random_reference(case)
    model, family = ours(case, reference), FAMILIES[case.family]
    theirs, weights = reference.state_dict(), FAMILIES[case.family].weights
    there = weights.write(model.state_dict(), model.config)
    for name, tensor in there.items():
        bare = name.removeprefix(weights.prefix)
        assert torch.equal(tensor, theirs[name] if name in theirs else theirs[bare]), name
    left = {n for n in theirs if n not in there and weights.prefix + n not in there}
    assert all(weights._may_be_dropped(n, theirs) for n in left), left
    back = weights.read(there, model.config).state
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[n], t) for n, t in model.state_dict().items())
    assert family.from_hf(family.to_hf(model.config), there.keys()) == model.config


@torch.inference_mode()
def check_hub(case: Case, tmp_path: Any) -> None:
    """Our export loads in transformers, with the same logits, and reads back to the same bits."""
    reference = random_reference(case)
    model = ours(case, reference)
    out = export_hf(ModelConfig(family=case.family), model.config, model.state_dict(), None, tmp_path / "hf")
    back = import_hf(out, family=case.family)
    assert back.family == case.family and back.config == model.config and not back.missing
    assert back.state.keys() == model.state_dict().keys()
    assert all(torch.equal(back.state[n], t) for n, t in model.state_dict().items())
    if case.loads is None:
        return
    loaded, report = case.loads.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert {k for k in report["unexpected_keys"] if "pooler" not in k} == set()
    source = batch(case, 2, 7, "") if case.source else None
    data = batch(case, 2, 7, "", 1)
    want = run_reference(case, loaded.eval(), data, source)
    torch.testing.assert_close(want, run_reference(case, reference, data, source), atol=1e-6, rtol=1e-6)


def check_refusals(case: Case) -> None:
    """Truncated, foreign and misshaped checkpoints are refused by name and shape."""
    reference = random_reference(case)
    model, weights = ours(case, reference), FAMILIES[case.family].weights
    there = weights.write(model.state_dict(), model.config)
    names = list(there)
    first, last = names[0], names[-1]
    cut = {n: t for n, t in there.items() if n != last}
    with pytest.raises(WeightsError, match=f"missing: .*{last}"):
        weights.read(cut, model.config)
    with pytest.raises(WeightsError, match="1 unexpected: model.layers.0.mlp.gate_proj.weight"):
        weights.read({**there, "model.layers.0.mlp.gate_proj.weight": torch.zeros(2, 2)}, model.config)
    other = FAMILIES["gpt2" if case.family != "gpt2" and case.family != "turing_nlg" else "bert"]
    small = {"d_model": 16, "d_ff": 16, "n_layers": 1, "vocab_size": 9, "max_positions": 4}
    config = other.presets["tiny"].replace(**small)
    foreign = other.weights.write(initialize(Transformer(config), 0).state_dict(), config)
    with pytest.raises(WeightsError, match="missing: .*unexpected: "):
        weights.read(foreign, model.config)
    wrong = there[first][:-1]
    with pytest.raises(WeightsError) as told:
        weights.read({**there, first: wrong}, model.config)
    for part in ("1 of another shape", first, str(list(wrong.shape)), str(list(there[first].shape))):
        assert part in str(told.value)


def check_learns(family: str) -> None:
    """The tiny preset's loss falls."""
    config = FAMILIES[family].presets["tiny"].replace(vocab_size=40, vocab_rows=None, dropout=0.0)
    model = initialize(Transformer(config), 0)
    ids = torch.arange(24).expand(4, 24) % 7 + torch.arange(4)[:, None]
    hidden = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    masked = bidirectional_batch(ids.masked_fill(hidden, 39))
    swapped = bidirectional_batch(torch.where(hidden, (ids * 3 + 11) % 40, ids))

    def loss() -> torch.Tensor:
        if config.head == "replaced":
            return F.binary_cross_entropy_with_logits(model(swapped).logits.squeeze(-1), hidden.float())
        if config.is_encoder_decoder or family in ("gpt2", "turing_nlg"):
            source = masked if config.is_encoder_decoder else None
            logits = model(causal_batch(ids), source=source).logits
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        return F.cross_entropy(model(masked).logits[hidden], ids[hidden])

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert all(p.grad is not None for p in model.parameters())
    assert losses[-1] < 0.6 * losses[0], losses


def count(model: Any) -> int:
    """Number of parameters, tied ones once."""
    return sum(p.numel() for p in model.parameters())


def check_count(family: str, preset: str, published: int, reference: Callable[[], Any] | None) -> None:
    """A preset on the meta device has as many parameters as stated, and as transformers' model."""
    with torch.device("meta"):
        assert count(Transformer(FAMILIES[family].presets[preset])) == published
        if reference is not None:
            model = reference()
            model.tie_weights()
            assert count(model) == published
