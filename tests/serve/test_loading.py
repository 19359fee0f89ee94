"""From engines to models that are served."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mainspring.errors import UsageError
from mainspring.infer import Engine
from mainspring.nn import Transformer, TransformerConfig, initialize
from mainspring.serve import serve_engine
from mainspring.serve.engine_reader import EngineReader
from mainspring.serve.loading import about, names_of
from mainspring.text import Tokenizer, train_tokenizer
from support.scripted import ScriptedReader

SHAPE = {"d_model": 8, "n_heads": 2, "n_layers": 1, "d_ff": 8, "vocab_size": 270, "max_positions": 64}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat"] * 4, "bpe", 270)


def made(kind: type[Engine], tokenizer: Tokenizer, **more: object) -> Engine:
    return kind(initialize(Transformer(TransformerConfig(**SHAPE, **more)), seed=0), tokenizer)


class Reader(ScriptedReader):
    """Stands for what reads in an engine."""

    tasks, writes = SimpleNamespace(task="score"), False

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer


def test_a_reader_of_an_engine(tokenizer: Tokenizer) -> None:
    reader = EngineReader(Reader(tokenizer))  # type: ignore[arg-type]
    assert reader.ranks
    assert reader.score([("abc", "bcd")]) == [2.0]
    assert [c.label for c in reader.classify(["a", "abcdefgh"])] == ["short", "long"]
    assert reader.embed(["abba"]).vectors[0, :2].tolist() == [2, 2]
    one, two = (len(tokenizer.encode(text)) for text in ("the cat", "on"))
    assert reader.count(["the cat", "on"]) == [one, two]
    assert reader.count([("the cat", "on"), ("on", "on")]) == [one + two, 2 * two]


def test_what_is_said_at_the_start(tokenizer: Tokenizer) -> None:
    plain = serve_engine(made(Engine, tokenizer))
    assert plain.writer is not None
    assert about("m", plain) == [
        "m: the tokenizer brings no chat template; /v1/chat/completions writes roles and colons"
    ]
    alone = serve_engine(made(Engine, tokenizer, conv={"kernel": 3}))
    assert "one after another: the model reads whole rows" in about("m", alone)[0]


def test_names() -> None:
    paths = [Path("/a/one"), Path("/b/two")]
    assert names_of(paths, []) == ["one", "two"]
    assert names_of(paths, ["x", "y"]) == ["x", "y"]
    with pytest.raises(UsageError, match="1 names for 2 models"):
        names_of(paths, ["x"])
    with pytest.raises(UsageError, match="two models are called 'one'"):
        names_of([Path("/a/one"), Path("/b/one")], [])
