"""Heads for search: the examples, the order, what is kept, and a run that is stopped and goes on."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mainspring.config import parse
from mainspring.data.batch import pad_rows
from mainspring.errors import ConfigError, DataError
from mainspring.finetune.reader import Reader, ReaderConfig
from mainspring.finetune.text_reader import TextReader
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.recipes.search import cloze, examples, training
from mainspring.recipes.search.recipe import HeadsRecipe
from mainspring.recipes.search.states import StateCache
from support.letters import letters

CONFIG = TransformerConfig(
    d_model=16, n_heads=2, n_layers=2, d_ff=32, vocab_size=40, norm_place="post", dropout=0.1
)
RECIPE = parse(
    HeadsRecipe,
    {
        "reader": {"apart": 1, "rank": 2, "width": 8},
        "examples": {
            "boolq": 30,
            "cloze": 0,
            "documentation": 0,
            "languages": ["en", "de"],
            "xquad_passes": 2,
        },
        "batch_tokens": 512,
        "optim": {"lr": 1e-3},
    },
)


def reader() -> TextReader:
    model = initialize(Transformer(CONFIG), seed=0)
    return TextReader(Reader(model, RECIPE.reader, seed=RECIPE.seed), letters())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BoolQ and XQuAD in small, in their own formats."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "understanding" / "boolq").mkdir(parents=True)
    (folder / "understanding" / "xquad").mkdir()
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join("".join(rng.choice("abcdefgh") for _ in range(4)) for _ in range(count))

    rows = [{"question": words(4), "passage": words(20), "label": bool(i % 2)} for i in range(40)]
    for part in ("train", "val"):
        path = folder / "understanding" / "boolq" / f"{part}.jsonl.gz"
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    for language in ("en", "de"):
        articles = []
        for a in range(13):
            paragraphs = []
            for p in range(2):
                context = words(80)
                at = context.index(" ", 150 * (p + 1)) + 1
                answer = {"text": context[at : at + 9], "answer_start": at}
                paragraphs.append(
                    {
                        "context": context,
                        "qas": [{"id": f"{a}-{p}", "question": words(3), "answers": [answer]}],
                    }
                )
            articles.append({"paragraphs": paragraphs})
        path = folder / "understanding" / "xquad" / f"xquad.{language}.json.gz"
        path.write_bytes(gzip.compress(json.dumps({"data": articles}).encode()))
    return folder


def test_nothing_is_learnt_from_what_is_reported_or_tuned_on(data: Path) -> None:
    asked = examples.xquad(data, "en")
    held = {a.context for a in asked if examples.is_reported(a) or examples.is_tuned_on(a)}
    german = {a.context for a in examples.xquad(data, "de") if examples.is_reported(a)}
    learnt = examples.learnt_from_xquad(data, ("en", "de"), random.Random(0))
    assert learnt and not (held | german) & {e.text for e in learnt}
    assert {examples.is_reported(a) for a in asked} == {True, False}
    assert not any(examples.is_reported(a) and examples.is_tuned_on(a) for a in asked)
    of = {a.context: a for a in [*asked, *examples.xquad(data, "de")]}
    for e in learnt:
        assert (e.relevance == 0.0) == (e.answer == examples.NO_ANSWER)
        if e.relevance:
            assert e.text[slice(*e.answer)] == of[e.text].answers[0]


def test_languages_are_crossed_by_the_same_question(data: Path) -> None:
    english = {a.question: a.id for a in examples.xquad(data, "en")}
    german = {a.context: a.id for a in examples.xquad(data, "de")}
    crossed = [
        e
        for e in examples.learnt_from_xquad(data, ("en", "de"), random.Random(0))
        if e.question in english and e.text in german and e.relevance
    ]
    assert crossed and all(english[e.question] == german[e.text] for e in crossed)


def test_missing_data_say_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="understanding/boolq"):
        examples.boolq(tmp_path, "train")


def test_cloze_questions_ask_for_what_is_blank() -> None:
    text = "It opened in Paris in May 1889. The tower has 1,665 steps and was built by Gustave Eiffel for it."
    found = cloze.blanks(text)
    assert [text[b.start : b.stop] for b in found] == ["Paris", "May 1889", "1,665", "Gustave Eiffel"]
    assert found[1].words[0] == "when" and "who" in found[3].words
    for blank in found[2:]:
        question = cloze.cloze(text, blank, random.Random(3))
        assert question is not None and text[blank.start : blank.stop] not in question
        assert set(question.rstrip("?").split()) <= set(text.replace(".", "").split()) | set(
            " ".join(blank.words).split()
        )
    assert cloze.cloze("A b.", cloze.Blank(2, 3, ("who",)), random.Random(0)) is None


def test_the_order_holds_every_row_once_and_depends_on_the_seed_alone() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(2, 60) for _ in range(50)]
    rows = [training.Row(rng.randrange(50), rng.randrange(50), 1.0, -1.0, (0, 0)) for _ in range(700)]
    batches = training.order(rows, lengths, 512, seed=4)
    assert sorted(i for batch in batches for i in batch) == list(range(700))
    assert batches == training.order(rows, lengths, 512, seed=4) != training.order(rows, lengths, 512, seed=5)
    for batch in batches:
        widest = max(lengths[rows[i].question] + lengths[rows[i].text] for i in batch)
        assert len(batch) * widest <= 512


def test_answers_are_found_again_in_their_windows(data: Path) -> None:
    made = training.drawn(data, RECIPE)
    rows, ids = training.numbered(made, reader())
    assert len(rows) == len(made) == len(training.drawn(data, RECIPE))
    several = 0
    alphabet = letters()
    for example, row in zip(made, rows, strict=True):
        if example.answer[0] <= 0:
            assert row.span == example.answer
            continue
        first, last = row.span
        several += len(example.text.replace(" ", "")) + 2 > len(ids[row.text])
        found = "".join(alphabet.token(i) or "" for i in ids[row.text][first - 1 : last])
        assert found == example.text[slice(*example.answer)].replace(" ", "")
    assert several  # of some, only a window is read


def test_states_are_kept_and_filling_goes_on(tmp_path: Path) -> None:
    model = reader().reader.eval()
    rng = random.Random(1)
    rows = [[2, *(rng.randint(4, 20) for _ in range(rng.randint(1, 30))), 3] for _ in range(40)]

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        StateCache(tmp_path, model, rows, 0).fill(stop)
    StateCache(tmp_path, model, rows, 0).fill()
    again = StateCache(tmp_path, model, rows, 0)
    told: list[int] = []
    again.fill(lambda done, total: told.append(done))
    assert told == []  # all is there
    states = again.states([7, 3])
    expected = model.apart(*pad_rows([rows[7], rows[3]], 0))
    assert torch.equal(states.valid, expected.valid)
    np.testing.assert_allclose(
        states.x[states.valid].numpy(), expected.x[expected.valid].detach().numpy(), atol=2e-3
    )
    assert float(states.x[~states.valid].abs().sum()) == 0.0


def test_a_run_that_is_stopped_ends_as_one_that_is_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = reader()
    told: list[training.Progress] = []
    training.train(whole, RECIPE, data, tmp_path / "whole", told.append)
    assert told[-1].done == told[-1].total > 8 and set(told[-1].losses) == {
        "relevance",
        "verdict",
        "span",
        "highlight",
    }
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)

    class Stopped(Exception):
        pass

    def stop(progress: training.Progress) -> None:
        if progress.stage == "training" and progress.done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        training.train(reader(), RECIPE, data, tmp_path / "parts", stop)
    resumed = reader()
    steps: list[int] = []
    training.train(
        resumed,
        RECIPE,
        data,
        tmp_path / "parts",
        lambda p: steps.append(p.done) if p.stage == "training" else None,
    )
    assert steps[0] == 5  # the step that was not saved is made again
    for name, value in whole.reader.trained().items():
        torch.testing.assert_close(resumed.reader.trained()[name], value, rtol=0, atol=0)
    other = RECIPE.replace(seed=1)
    with pytest.raises(ConfigError, match="another recipe"):
        training.train(reader(), other, data, tmp_path / "whole")


def test_the_recipe_of_the_package_is_one() -> None:
    from mainspring.config import load_toml

    recipe = load_toml(HeadsRecipe, training.RECIPES / "minilm.toml", ["examples.boolq=5"])
    assert recipe.examples.boolq == 5 and recipe.reader == ReaderConfig()
