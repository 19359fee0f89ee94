"""A model run part by part gives what it gives as a whole, to the last bit."""

from __future__ import annotations

import pytest
import torch

from mainspring.data.batch import bidirectional_batch, causal_batch
from mainspring.errors import UsageError
from mainspring.models.deberta.config import CONVOLUTION, deberta_v2
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.config import Absolute, Disentangled, ExpertLayers, T5Bias
from mainspring.nn.part import Absent, Carried, Part, RunsInParts

SMALL = {"d_model": 16, "n_heads": 2, "d_ff": 32, "vocab_size": 23, "max_positions": 12}
CONFIGS = {
    "decoder": TransformerConfig(n_layers=3, **SMALL),
    "untied": TransformerConfig(n_layers=2, tied=False, **SMALL),
    "deberta": deberta_v2(16, 3, 2, d_ff=32, vocab_size=23, max_positions=12, conv=CONVOLUTION),
    "mask-decoder": TransformerConfig(
        n_layers=3, norm_place="post", positions=(Absolute(place="decoder"), Disentangled()), **SMALL
    ),
    "experts": TransformerConfig(n_layers=4, experts=ExpertLayers(count=4, keep="first"), **SMALL),
    "bias": TransformerConfig(n_layers=2, positions=(T5Bias(),), **SMALL),
    "encoder-decoder": TransformerConfig(
        encoder_layers=2,
        decoder_layers=2,
        experts=ExpertLayers(count=4, keep="first"),
        positions=(T5Bias(),),
        **SMALL,
    ),
}
CASES = [
    (name, cut)
    for name, config in CONFIGS.items()
    for cut in range(1, config.n_layers + config.encoder_layers + config.decoder_layers)
]


def inputs(config: TransformerConfig) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(23, (2, 7), generator=generator)
    batch = causal_batch(ids, valid=torch.arange(7) < torch.tensor([[7], [5]]))
    source = bidirectional_batch(torch.randint(23, (2, 5), generator=generator))
    return {"batch": batch, "source": source if config.is_encoder_decoder else None}


def loss(output):
    auxiliary = 0 if output.auxiliary is None else output.auxiliary.sum()
    return output.logits.square().mean() + auxiliary


@pytest.mark.parametrize(("name", "cut"), CASES)
def test_parts_are_the_whole(name, cut):
    model = initialize(Transformer(CONFIGS[name]), seed=0)
    total = len(model.blocks())
    given = inputs(CONFIGS[name])
    whole = model(**given)
    loss(whole).backward()
    want = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    carried = model(**given, part=Part(0, cut, total))
    assert isinstance(carried, Carried)
    parts = model(**given, part=Part(cut, total, total), carried=carried)
    for one, other in zip(whole[:2], parts[:2], strict=True):
        assert torch.equal(one, other)
    loss(parts).backward()
    for parameter, value in model.named_parameters():
        assert (value.grad is None) == (want[parameter] is None)
        assert value.grad is None or torch.allclose(value.grad, want[parameter], atol=1e-7)


@pytest.mark.parametrize(("name", "cut"), CASES)
def test_a_part_uses_what_it_says_and_no_more(name, cut):
    """What a part does not name may be taken away."""
    model = initialize(Transformer(CONFIGS[name]), seed=0)
    assert isinstance(model, RunsInParts)
    total = len(model.blocks())
    given = inputs(CONFIGS[name])
    carried = model(**given, part=Part(0, cut, total))
    want = model(**given, part=Part(cut, total, total), carried=carried)
    for part in (Part(0, cut, total), Part(cut, total, total)):
        left = initialize(Transformer(CONFIGS[name]), seed=0)
        used = [*left.blocks()[part.start : part.stop], *left.outside(part)]
        keep = {id(p) for module in used for p in module.parameters()}
        reached = set()
        for module in left.modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in keep:
                    module._parameters[leaf] = None
        # An untied head is given the table of the embeddings, and does not look at it.
        got = left(**given, part=part, carried=carried if part.start else None)
        if part.last:
            assert torch.equal(got.logits, want.logits)
            loss(got).backward()
            reached = {id(p) for p in left.parameters() if p.grad is not None}
            assert reached == keep, "a part names parameters that it does not use"


def test_costs_count_what_a_token_meets():
    config = TransformerConfig(n_layers=3, **SMALL)
    block = 16 * 48 + 16 * 16 + 2 * 16 * 32
    assert Transformer(config).costs() == [block, block, block + 23 * 16]
    experts = TransformerConfig(n_layers=4, experts=ExpertLayers(count=4, top_k=2), **SMALL)
    plain, sparse, *_ = Transformer(experts).costs()
    assert sparse == plain + 2 * 16 * 32 + 4 * 16  # two experts in place of one, and the gate


def test_a_part_has_no_cache_and_an_absent_block_refuses():
    model = initialize(Transformer(CONFIGS["decoder"]), seed=0)
    given = inputs(CONFIGS["decoder"])
    with pytest.raises(UsageError, match="hidden states"):
        model(**given, part=Part(0, 1, 3), states=True)
    model.layers[1] = Absent()
    with pytest.raises(UsageError, match=r"parallel\.accumulate"):
        model(**given)
