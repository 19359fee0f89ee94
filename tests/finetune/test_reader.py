"""A reader beside the encoder that it stands on, and its losses beside loops."""

import math

import pytest
import torch

from mainspring.data.batch import bidirectional_batch
from mainspring.errors import WeightsError
from mainspring.finetune.reader import Labels, Reader, ReaderConfig, Reading, States, losses
from mainspring.nn import Transformer, TransformerConfig, initialize

CONFIG = TransformerConfig(d_model=16, n_heads=2, n_layers=3, d_ff=32, vocab_size=31, norm_place="post")


def encoder() -> Transformer:
    return initialize(Transformer(CONFIG), seed=0)


def reader(apart: int = 2) -> Reader:
    return Reader(encoder(), ReaderConfig(apart=apart, rank=2, width=8), seed=1)


def rows(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, 31, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(3))
    return ids, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("apart", [0, 2])
def test_the_first_layers_are_the_encoders(apart: int) -> None:
    ids, valid = rows(5, 3)
    states = encoder()(bidirectional_batch(ids, valid=valid), states=True).states
    assert states is not None
    found = reader(apart).apart(ids, valid).x
    torch.testing.assert_close(found[valid], states[apart][valid])


def test_an_untrained_reader_reads_both_as_one_row_in_its_last_layers() -> None:
    model = reader()
    with torch.no_grad():
        a, b = model.apart(*rows(4)), model.apart(*rows(6))
        x = torch.cat([a.x, b.x], 1)
        last = encoder().layers[2]
        hidden = x
        heads = last.attention  # one layer by hand: every token sees every other
        q, k, v = heads.project(hidden).view(1, 10, 2, 3, 8).unbind(3)
        scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / math.sqrt(8)
        mixed = torch.einsum("bhqk,bkhe->bqhe", scores.softmax(-1), v).reshape(1, 10, 16)
        hidden = last.attention_norm(hidden + heads.out(mixed))
        hidden = last.feed_forward_norm(hidden + last.feed_forward(hidden))
        tokens = model.tokens(torch.cat([hidden[:, :1], hidden[:, 4:]], 1))
    reading = model(a, b)
    torch.testing.assert_close(reading.spans, tokens[..., :2])
    torch.testing.assert_close(reading.highlights, tokens[:, 1:, 2])


def test_padding_changes_nothing() -> None:
    model = reader()
    ids, valid = rows(5, 3)
    longer_ids, longer_valid = rows(7, 4)
    both = model(model.apart(ids, valid), model.apart(longer_ids, longer_valid))
    alone = model(
        model.apart(ids[1:, :3], valid[1:, :3]), model.apart(longer_ids[1:, :4], longer_valid[1:, :4])
    )
    torch.testing.assert_close(both.relevance[1:], alone.relevance)
    torch.testing.assert_close(both.verdict[1:], alone.verdict)
    torch.testing.assert_close(both.spans[1:, :5], alone.spans)
    assert bool((both.spans[1, 5:] == -torch.inf).all())


def test_a_reader_leaves_its_encoder_alone_and_can_be_trained_saved_and_folded() -> None:
    below = encoder()
    before = {name: value.clone() for name, value in below.state_dict().items()}
    model = Reader(below, ReaderConfig(apart=2, rank=2, width=8), seed=1)
    assert model.encoder.layers[0] is below.layers[0] and model.encoder.layers[2] is not below.layers[2]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    questions, texts = model.apart(*rows(4, 4)), model.apart(*rows(6, 6))
    labels = Labels(torch.tensor([1.0, 0.0]), torch.tensor([1.0, -1.0]), torch.tensor([[2, 3], [0, 0]]))
    values = []
    for _ in range(30):
        loss = torch.stack(list(losses(model(questions, texts), labels).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.3 * values[0]
    for name, value in below.state_dict().items():
        assert torch.equal(value, before[name]), name
    trained = model(questions, texts)
    other = Reader(below, ReaderConfig(apart=2, rank=2, width=8), seed=5).load_trained(model.trained())
    folded = other.folded()
    for one, two in zip(trained, folded(questions, texts), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in folded.parameters())


def test_heads_of_another_shape_are_refused() -> None:
    with pytest.raises(WeightsError, match="another encoder or another shape"):
        reader().load_trained(Reader(encoder(), ReaderConfig(apart=2, rank=3, width=8), seed=0).trained())
    with pytest.raises(WeightsError, match="apart = 3: the encoder has 3 layers"):
        Reader(encoder(), ReaderConfig(apart=3), seed=0)


def test_losses_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    spans = torch.randn(3, 5, 2)
    spans[2, 4] = -torch.inf
    reading = Reading(torch.randn(3), torch.randn(3), spans, torch.randn(3, 4))
    labels = Labels(
        torch.tensor([1.0, 0.0, -1.0]),
        torch.tensor([-1.0, -1.0, 0.0]),
        torch.tensor([[2, 3], [0, 0], [-1, -1]]),
    )
    found = losses(reading, labels)
    r = reading.relevance.tolist()
    assert math.isclose(
        float(found["relevance"]),
        (math.log1p(math.exp(-r[0])) + math.log1p(math.exp(r[1]))) / 2,
        rel_tol=1e-5,
    )
    assert math.isclose(
        float(found["verdict"]), math.log1p(math.exp(float(reading.verdict[2]))), rel_tol=1e-5
    )
    ends = [
        -float(reading.spans[i, :, e].log_softmax(0)[place])
        for i, places in ((0, (2, 3)), (1, (0, 0)))
        for e, place in enumerate(places)
    ]
    assert math.isclose(float(found["span"]), sum(ends) / 4, rel_tol=1e-5)
    h = reading.highlights[0].tolist()
    inside = [math.log1p(math.exp(-h[t])) for t in (1, 2)]  # places 2 and 3 count from 1
    outside = [math.log1p(math.exp(h[t])) for t in (0, 3)]
    assert math.isclose(float(found["highlight"]), (sum(inside) / 2 + sum(outside) / 2) / 2, rel_tol=1e-5)
    nothing = Labels(torch.full((3,), -1.0), torch.full((3,), -1.0), torch.full((3, 2), -1))
    assert losses(reading, nothing) == {}


def test_states_hold_what_is_padding() -> None:
    model = reader()
    states = model.apart(*rows(2, 4))
    assert isinstance(states, States) and states.valid.tolist() == [[True, True, False, False], [True] * 4]
