"""RTD: whose gradients go where under each sharing, exact sampling, labels, and the network taken out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.config import parse
from mainspring.data.batch import IGNORE, bidirectional_batch
from mainspring.errors import ConfigError
from mainspring.models import deberta
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.nn.config import Absolute
from mainspring.objectives import (
    GeneratorAndDiscriminator,
    Objective,
    OwnsModules,
    ReplacedConfig,
    ReplacedTokens,
    SeveralPasses,
    build,
)
from mainspring.objectives.generator import sample_tokens
from objectives.pairs import FULL, SEP, pairs, rows_from
from objectives.test_masked import SPECIAL, VOCAB, generators, text

TOKEN, POSITION = "embeddings.token.weight", "embeddings.position.weight"
SHAPE = TransformerConfig(
    d_model=16,
    n_heads=2,
    n_layers=2,
    d_ff=32,
    vocab_size=VOCAB,
    max_positions=64,
    norm_place="post",
    embed_norm=True,
    head="replaced",
)


def rtd(**changes: object) -> ReplacedTokens:
    return ReplacedTokens(parse(ReplacedConfig, {"kind": "rtd", **changes}), FULL)


def both(objective: ReplacedTokens, config: TransformerConfig = SHAPE) -> GeneratorAndDiscriminator:
    return initialize(objective.assemble(Transformer(config)), 0).eval()


def gradients_of(model: GeneratorAndDiscriminator, objective: ReplacedTokens, name: str) -> dict[str, Tensor]:
    """Gradients that one of the losses gives, by parameter; those that get none are left out."""
    model.zero_grad()
    objective.loss(model, objective.build(text(3, 20), generators(3)))[name].total.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_disentangled_sharing_routes_gradients_as_the_paper_has_it() -> None:
    """He et al. 2023, section 3.2: E_G learns from filling alone, E_delta from finding alone."""
    objective = rtd(embeddings="disentangled")
    model = both(objective)
    assert not model.network.embeddings.token.weight.any(), "the difference begins at 0"
    filling, finding = (gradients_of(model, objective, name) for name in ("mlm", "rtd"))
    assert {n.split(".")[0] for n in filling} == {"generator"}
    assert {n.split(".")[0] for n in finding} == {"network"}
    for table in (TOKEN, POSITION):
        assert filling[f"generator.{table}"].any() and finding[f"network.{table}"].any()


def test_shared_tables_learn_from_both_and_separate_ones_from_their_own() -> None:
    shared = rtd(embeddings="shared")
    model = both(shared)
    assert model.network.embeddings.token is model.generator.embeddings.token
    for name in ("mlm", "rtd"):
        assert f"network.{TOKEN}" in gradients_of(model, shared, name)
    separate = rtd(embeddings="separate")
    model = both(separate)
    assert model.network.embeddings.token.weight is not model.generator.embeddings.token.weight
    assert f"network.{TOKEN}" not in gradients_of(model, separate, "mlm")
    assert f"generator.{TOKEN}" not in gradients_of(model, separate, "rtd")


@pytest.mark.parametrize("embeddings", ["shared", "separate", "disentangled"])
def test_one_backward_after_the_other_is_one_backward_of_the_sum(embeddings: str) -> None:
    objective = rtd(embeddings=embeddings)
    model, views = both(objective), objective.build(text(3, 20), generators(3))
    sum(loss.total * loss.weight for loss in objective.loss(model, views).values()).backward()
    together = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    for run in objective.passes(model, views):
        sum(loss.total * loss.weight for loss in run().values()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], msg=name)


def test_the_discriminator_looks_up_the_sum_of_the_tables() -> None:
    model = both(rtd())
    with torch.no_grad():
        for table in (model.network.embeddings.token, model.network.embeddings.position):
            table.weight.normal_()
    objective, batch = rtd(), bidirectional_batch(torch.randint(SPECIAL, VOCAB, (2, 9)))
    state = objective.network_state({n: p.detach() for n, p in model.state_dict().items()})
    alone = Transformer(SHAPE)
    alone.load_state_dict(state)
    with torch.no_grad():
        expected = model(batch, part="discriminator").logits
        torch.testing.assert_close(alone.eval()(batch).logits, expected)
        theirs = model.generator.embeddings.token.weight
        torch.testing.assert_close(state[TOKEN], theirs + model.network.embeddings.token.weight)
    for sharing in ("shared", "separate"):
        other = rtd(embeddings=sharing)
        Transformer(SHAPE).load_state_dict(other.network_state(dict(both(other).state_dict())))


def test_losses_by_hand() -> None:
    objective, batch = rtd(rate=0.4), text(3, 20)
    model, views = both(objective), objective.build(batch, generators(3))
    losses = objective.loss(model, views)
    where = views["mlm"].labels != IGNORE
    assert torch.equal(views["rtd"].ids, batch.ids[:, : views["rtd"].ids.shape[1]])
    drawn = (views["rtd"].labels >= 0) & (views["rtd"].labels < 2**31)
    assert torch.equal(where, drawn), "draws stand where tokens are hidden"
    assert torch.equal(views["rtd"].labels == 2**31, views["rtd"].valid & ~where)
    with torch.no_grad():
        logits = model.generator(views["mlm"]).logits[where]
        torch.testing.assert_close(
            losses["mlm"].total, F.cross_entropy(logits, views["mlm"].labels[where], reduction="sum")
        )
        ids = views["rtd"].ids.clone()
        for n, (i, j) in enumerate(torch.nonzero(where).tolist()):
            draw, reached = (views["rtd"].labels[i, j].item() + 0.5) / 2**31, 0.0
            for token, p in enumerate(torch.softmax(logits[n].double(), 0).tolist()):
                reached += p
                if draw < reached:
                    ids[i, j] = token
                    break
        scores = model.network(views["rtd"]._replace(ids=ids)).logits[..., 0]
        total = 0.0
        for i, j in torch.nonzero(views["rtd"].valid).tolist():
            p = torch.sigmoid(scores[i, j].double()).item()
            total -= np.log(p if ids[i, j] != views["rtd"].ids[i, j] else 1 - p)
    assert losses["rtd"].total.item() == pytest.approx(total, rel=1e-5)
    assert losses["rtd"].count == int(views["rtd"].valid.sum()) and losses["rtd"].weight == 50.0
    assert {n: loss.count for n, loss in losses.items()} == objective.counts(views)


def test_samples_have_the_generators_probabilities() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, -40.0]]).expand(20000, 4)
    tokens = sample_tokens(logits, (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    shares = torch.bincount(tokens, minlength=4) / 20000
    torch.testing.assert_close(shares, torch.softmax(logits[0], 0), atol=1e-4, rtol=0)
    assert sample_tokens(logits[:2], torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == [0, 3]
    several = torch.randn(9, 1 << 19)  # more than are worked on at once
    draws = torch.rand(9, dtype=torch.float64)
    one_by_one = torch.cat([sample_tokens(several[i : i + 1], draws[i : i + 1]) for i in range(9)])
    assert torch.equal(sample_tokens(several, draws), one_by_one)


def test_one_batch_equals_several() -> None:
    objective, batch = rtd(), text(5, 24)
    model = both(objective).double()
    whole = objective.loss(model, objective.build(batch, generators(5)))
    sums = {"mlm": 0.0, "rtd": 0.0}
    for start, stop in [(0, 1), (1, 5)]:
        views = objective.build(rows_from(batch, start, stop), generators(5)[start:stop])
        for name, loss in objective.loss(model, views).items():
            sums[name] += loss.total.item()
    assert sums == pytest.approx({name: loss.total.item() for name, loss in whole.items()}, rel=1e-6)


def test_on_pairs_it_is_trtd() -> None:
    objective = rtd(text="pairs", whole_words=False)
    views = objective.build(pairs(4), generators(4))
    ends = (views["rtd"].ids == SEP).sum(1)
    assert (ends == 2).all() and not (views["mlm"].labels == SEP).any()
    assert set(views["rtd"].lang.unique().tolist()) >= {1, 2}
    assert objective.loss(both(objective), views)["rtd"].count == objective.counts(views)["rtd"]


def test_debertas_generator_predicts_with_its_mask_decoder() -> None:
    network = deberta.PRESETS_V2["tiny-discriminator"].model_copy(update={"vocab_size": VOCAB})
    position = [p.model_dump() for p in (*network.positions, Absolute(place="decoder"))]
    objective = rtd(generator={"positions": position})
    model = both(objective, network)
    assert model.generator.config.mask_decoder and model.generator.config.n_layers == 1
    losses = objective.loss(model, objective.build(text(2, 16), generators(2)))
    assert all(torch.isfinite(loss.total) for loss in losses.values())


def test_protocols_and_refusals() -> None:
    objective = build(ReplacedConfig(), FULL)
    assert isinstance(objective, Objective)
    assert isinstance(objective, OwnsModules) and isinstance(objective, SeveralPasses)
    with pytest.raises(ConfigError, match="its head is 'tokens'"):
        rtd().assemble(Transformer(SHAPE.model_copy(update={"head": "tokens"})))
    with pytest.raises(ConfigError, match="token tables differ"):
        rtd(generator={"d_model": 8}).assemble(Transformer(SHAPE))
    narrow = rtd(generator={"d_model": 8, "embed_dim": 16})
    assert both(narrow).generator.config.d_model == 8
    model = both(rtd())
    model.remat = True
    assert model.network.remat and model.generator.remat and len(model.blocks()) == 3
