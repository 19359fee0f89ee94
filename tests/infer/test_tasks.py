"""Embeddings, classes, scores, tags and spans: beside transformers, and whatever the batch."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mainspring.data.batch import TokenBatch, bidirectional_batch
from mainspring.errors import UsageError
from mainspring.finetune.heads import HeadConfig, TaskModel
from mainspring.finetune.native import export_native_task
from mainspring.finetune.pooling import DenseConfig, EmbedConfig, Embedder, pool
from mainspring.finetune.published import export_task
from mainspring.infer import Engine
from mainspring.infer.reader import Reader, hidden_states
from mainspring.infer.tagging import Reading, tags_of
from mainspring.models import FAMILIES
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.text import Tokenizer, train_tokenizer
from mainspring.text.framing import Framer

TEXT = ["the cat sat on the mat; the dog sat on the log, and 12 birds sang in New York."] * 8
TEXTS = ["the cat", "the dog sat on the log and the birds sang", "mat", "New York, 12 birds; the mat"] * 3


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return train_tokenizer(TEXT, "wordpiece", 120)


@pytest.fixture(scope="module")
def config(words: Tokenizer) -> TransformerConfig:
    tiny = FAMILIES["bert"].presets["tiny"]
    return tiny.replace(
        d_model=32, d_ff=64, n_heads=4, vocab_size=words.vocab_size, max_positions=24, init_std=0.3
    )


def model(config: TransformerConfig, **head: object) -> TaskModel:
    settings = HeadConfig.model_validate(head)
    return initialize(TaskModel(config, settings), seed=1).eval().requires_grad_(False)


def alone(
    encoder: Transformer, words: Tokenizer, text: str | tuple[str, str], most: int = 24
) -> torch.Tensor:
    framer = Framer(words, most)
    (frame,) = framer.frame([text]) if isinstance(text, str) else framer.frame_pairs([text])
    batch = bidirectional_batch(torch.tensor([frame.ids]))._replace(type=torch.tensor([frame.types]))
    return encoder(batch).hidden


@torch.no_grad()
def test_embeddings_do_not_depend_on_the_batch(config: TransformerConfig, words: Tokenizer) -> None:
    network = initialize(Transformer(config), seed=0).eval()
    engine = Engine(network, words, refusal="an encoder", causal=False)
    made = engine.embed(TEXTS)
    expected = torch.cat([alone(network, words, text).mean(1) for text in TEXTS])
    torch.testing.assert_close(made.vectors, expected, atol=1e-5, rtol=1e-5)
    assert made.cut == (False,) * len(TEXTS) and made.tokens[2] == 3
    first = engine.embed(TEXTS, pooling="cls", normalize=True).vectors
    expected = torch.cat([alone(network, words, text)[:, 0] for text in TEXTS])
    torch.testing.assert_close(first, expected / expected.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-5)
    assert engine.embed([]).vectors.shape == (0, 32)
    assert engine.embed(["the cat sat on the mat " * 9]).cut == (True,)


@pytest.mark.parametrize(
    "positions",
    [
        ({"kind": "absolute"},),
        ({"kind": "rotary"},),
        ({"kind": "t5_bias"},),
        ({"kind": "t5_bias", "gate": "input"},),
        ({"kind": "disentangled", "max_distance": 16, "buckets": 8},),
        ({"kind": "disentangled", "max_distance": 16, "shared": False, "key_bias": False},),
    ],
)
@torch.no_grad()
def test_rows_without_padding_give_what_padded_rows_give(positions: tuple[dict[str, object], ...]) -> None:
    shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 32, "vocab_size": 40, "type_vocab": 2}
    config = TransformerConfig.model_validate({**shape, "positions": positions, "head": "none"})
    network = initialize(Transformer(config.replace(init_std=0.4)), seed=0).eval()
    tokenizer = train_tokenizer(TEXT, "wordpiece", 40)
    frames = Framer(tokenizer, 24).frame(TEXTS)
    padded = Reader(network, packs=False, batch_tokens=60)
    calls: list[tuple[int, ...]] = []

    def watched(batch: TokenBatch) -> torch.Tensor:
        calls.append(tuple(batch.ids.shape))
        return hidden_states(network, batch)

    expected = {}
    for batch in padded.run(frames):
        for number, hidden in zip(batch.numbers, batch.hidden, strict=True):
            expected[number] = hidden[: len(frames[number].ids)]
    packed = Reader(network, batch_tokens=60)
    packed.forward = watched
    for batch in packed.run(frames):
        for number, hidden in zip(batch.numbers, batch.hidden, strict=True):
            found = hidden[: len(frames[number].ids)]
            torch.testing.assert_close(found, expected.pop(number), atol=1e-5, rtol=1e-4)
    assert not expected
    tokens = sum(rows * width for rows, width in calls)
    assert tokens == sum(len(frame.ids) for frame in frames)


def test_classes(config: TransformerConfig, words: Tokenizer) -> None:
    task = model(config, task="classify", labels=("no", "perhaps", "yes"))
    engine = Engine(task, words)
    pairs = [(a, b) for a, b in zip(TEXTS, reversed(TEXTS), strict=True)]
    for given in (TEXTS, pairs):
        for one, text in zip(engine.classify(given), given, strict=True):
            expected = task.read(alone(task.encoder, words, text))[0].softmax(-1)
            torch.testing.assert_close(
                torch.tensor(list(one.scores.values())), expected, atol=1e-5, rtol=1e-5
            )
            assert one.label == ("no", "perhaps", "yes")[int(expected.argmax())] == one.labels[0]
    several = Engine(model(config, task="classify", labels=("a", "b"), several=True), words)
    one = several.classify(["the cat"])[0]
    assert one.labels == tuple(label for label in ("a", "b") if one.scores[label] >= 0.5)
    with pytest.raises(UsageError, match="texts alone, or pairs of two texts alone"):
        engine.classify(["one", ("two", "three")])  # type: ignore[list-item]


def test_scores_of_pairs(config: TransformerConfig, words: Tokenizer) -> None:
    task = model(config, task="score")
    pairs = [("the cat", text) for text in TEXTS]
    expected = torch.cat([task.read(alone(task.encoder, words, pair))[0] for pair in pairs])
    torch.testing.assert_close(torch.tensor(Engine(task, words).score(pairs)), expected, atol=1e-5, rtol=1e-5)


def test_tags_of_words_and_their_places(config: TransformerConfig, words: Tokenizer) -> None:
    labels = ("O", "B-LOC", "I-LOC")
    task = model(config, task="tag", labels=labels)
    text = "the dog sat, in New York"
    (found,) = Engine(task, words).tag([text])
    assert [tag.text for tag in found.words] == ["the", "dog", "sat", ",", "in", "New", "York"]
    assert all(text[tag.start : tag.end] == tag.text for tag in (*found.words, *found.entities))
    (frame,) = Framer(words, 24).frame([text])
    probability = task.read(alone(task.encoder, words, text))[0].softmax(-1)
    firsts = [i for i, w in enumerate(frame.words) if w is not None and frame.words[i - 1] != w]
    for tag, first in zip(found.words, firsts, strict=True):
        assert tag.label == labels[int(probability[first].argmax())]
        assert tag.score == pytest.approx(float(probability[first].max()), abs=1e-5)
    (given,) = Engine(task, words).tag([["the", "dog", "sat,", "in", "New", "York"]])
    assert [tag.text for tag in given.words] == ["the", "dog", "sat,", "in", "New", "York"]


def test_long_texts_are_tagged_in_windows(config: TransformerConfig, words: Tokenizer) -> None:
    task = model(config, task="tag", labels=("O", "X"))
    text = " ".join(f"the cat {n}" for n in range(30))
    (found,) = Engine(task, words).tag([text])
    assert " ".join(tag.text for tag in found.words) == text
    windows = Framer(words, 24, 6).frame([text], windows=True)
    assert len(windows) > 3 and all(len(window.ids) <= 24 for window in windows)


def test_a_word_has_the_tag_of_the_window_where_it_stands_farthest_from_an_edge(words: Tokenizer) -> None:
    windows = Framer(words, 8, 3).frame(["the cat sat on the mat and the dog"], windows=True)
    readings = []
    for number, frame in enumerate(windows):
        probability = torch.zeros(len(frame.ids), len(windows))
        probability[:, number] = 1.0
        readings.append(Reading(frame, probability))
    tags = tags_of(
        "the cat sat on the mat and the dog", None, readings, [str(n) for n in range(len(windows))]
    )
    chosen = [int(tag.label) for tag in tags.words]
    assert chosen == sorted(chosen) and chosen[0] == 0 and chosen[-1] == len(windows) - 1
    place = {word: n for n, word in enumerate(windows[0].words) if word is not None}
    for word, at in place.items():
        before = min(at, len(windows[0].ids) - 1 - at)
        other = [n for n, w in enumerate(windows[1].words) if w == word]
        if other:
            after = min(other[0], len(windows[1].ids) - 1 - other[-1])
            assert chosen[word] == (1 if after > before else 0)


def test_spans_are_verbatim_and_the_best(config: TransformerConfig, words: Tokenizer) -> None:
    task = model(config, task="span")
    context = "the dog sat on the log,  and 12 birds sang in New York."
    question = "the birds"
    (answer,) = Engine(task, words).span([(question, context)], max_answer_tokens=4)
    (frame,) = Framer(words, 24).frame_pairs([(question, context)])
    logits = task.read(alone(task.encoder, words, (question, context)))[0]
    best = max(
        (float(logits[i, 0] + logits[j, 1]), frame.offsets[i][0], frame.offsets[j][1])
        for i in range(len(frame.ids))
        for j in range(i, min(i + 4, len(frame.ids)))
        if frame.parts[i] == 1 and frame.parts[j] == 1
    )
    assert (answer.start, answer.end) == best[1:] and answer.score == pytest.approx(best[0], abs=1e-4)
    assert answer.text == context[answer.start : answer.end] and answer.found
    assert answer.no_answer == pytest.approx(float(logits[0].sum()), abs=1e-4)
    (maybe,) = Engine(task, words).span([(question, context)], no_answer=True, max_answer_tokens=4)
    assert maybe.found == (answer.score >= answer.no_answer) and (maybe.found or maybe.text == "")
    assert 0 < maybe.probability <= 1


def test_a_long_context_is_searched_to_its_end(config: TransformerConfig, words: Tokenizer) -> None:
    task = model(config, task="span")
    context = " ".join(f"the cat {n} sat" for n in range(40))
    (answer,) = Engine(task, words).span([("the birds", context)])
    framer = Framer(words, 24, 6)
    scores = []
    for frame in framer.frame_pairs([("the birds", context)], windows=True):
        batch = bidirectional_batch(torch.tensor([frame.ids]))._replace(type=torch.tensor([frame.types]))
        logits = task(batch)[0]
        inside = [i for i, part in enumerate(frame.parts) if part == 1]
        scores += [float(logits[i, 0] + logits[j, 1]) for i in inside for j in inside if i <= j < i + 30]
    assert answer.score == pytest.approx(max(scores), abs=1e-4)
    with pytest.raises(UsageError, match="leaves no room"):
        Engine(task, words).span([("the cat sat on the mat " * 6, context)])


def test_what_a_model_cannot_do_is_said(config: TransformerConfig, words: Tokenizer) -> None:
    engine = Engine(model(config, task="tag", labels=("O", "X")), words, name="tagger")
    with pytest.raises(UsageError, match="no head to classify: it can tag, and embed"):
        engine.classify(["the cat"])
    with pytest.raises(UsageError, match="tagger has no head that writes"):
        engine.generate(["the cat"])
    assert not engine.writes and engine.embed(["the cat"]).vectors.shape == (1, 32)


def test_every_layout_of_a_task_model_loads(
    config: TransformerConfig, words: Tokenizer, tmp_path: Path
) -> None:
    task = model(config, task="classify", labels=("no", "yes"))
    expected = Engine(task, words).classify(TEXTS)
    export_task("bert", task, words, tmp_path / "published")
    export_native_task(task, words, tmp_path / "native", family="bert")
    for place in ("published", "native"):
        loaded = Engine.load(tmp_path / place)
        assert [one.label for one in loaded.classify(TEXTS)] == [one.label for one in expected]
        assert loaded.classify(TEXTS)[0].score == pytest.approx(expected[0].score, abs=1e-6)


def test_an_embedder_with_layers_of_its_own(
    config: TransformerConfig, words: Tokenizer, tmp_path: Path
) -> None:
    embed = EmbedConfig(pooling=("mean", "max"), dense=(DenseConfig(width=7),), normalize=True, max_tokens=10)
    embedder = initialize(Embedder(config, embed), seed=2).eval().requires_grad_(False)
    export_native_task(embedder, words, tmp_path)
    made = Engine.load(tmp_path).embed(TEXTS)
    hidden = alone(embedder.encoder, words, TEXTS[0])
    joined = torch.cat([hidden.mean(1), hidden.amax(1)], -1)
    expected = torch.tanh(joined @ embedder.dense[0].weight.T + embedder.dense[0].bias)[0]
    assert cosine_similarity(made.vectors[0], expected, dim=0) > 1 - 1e-6
    assert max(made.tokens) == 10 and made.cut[1] and made.vectors[0].norm() == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(UsageError, match="dense layers that take its own pooling"):
        Engine.load(tmp_path).embed(TEXTS, pooling="cls")


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[1.0, 4.0], [3.0, 0.0], [9.0, 9.0]], [[2.0, 2.0], [4.0, 1.0], [6.0, 0.0]]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    expected = {
        "mean": [[2.0, 2.0], [4.0, 1.0]],
        "cls": [[1.0, 4.0], [2.0, 2.0]],
        "max": [[3.0, 4.0], [6.0, 2.0]],
        "last": [[3.0, 0.0], [6.0, 0.0]],
        "mean_sqrt": [[4 / 2**0.5, 4 / 2**0.5], [12 / 3**0.5, 3 / 3**0.5]],
        "weighted_mean": [[7 / 3, 4 / 3], [28 / 6, 4 / 6]],
    }
    for pooling, values in expected.items():
        torch.testing.assert_close(pool(hidden, valid, pooling), torch.tensor(values))  # type: ignore[arg-type]


def test_a_model_is_left_as_it_was(config: TransformerConfig, words: Tokenizer) -> None:
    network = initialize(Transformer(config), seed=0).eval()
    kinds = [type(module.spread) for module in network.modules() if hasattr(module, "spread")]
    Engine(network, words, refusal="an encoder").embed(TEXTS)
    assert [type(module.spread) for module in network.modules() if hasattr(module, "spread")] == kinds
