"""Tokenizers in the forms that checkpoints carry them; transformers is the oracle."""

import gzip
import json
from pathlib import Path

import pytest
import tokenizers

from mainspring.errors import TokenizerError
from mainspring.text import Tokenizer
from mainspring.text.loading import is_plain_byte_level

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "human",
    "rights",
    "##s",
    "right",
    "the",
    ",",
    "free",
    "##dom",
]


@pytest.fixture(scope="session")
def gpt2(shared_data: Path) -> Tokenizer:
    """GPT-2's tokenizer from its own files."""
    return Tokenizer.load(shared_data / "lm" / "gpt2-bpe")


def test_gpt2_files_give_gpt2_ids(gpt2: Tokenizer) -> None:
    assert gpt2.vocab_size == 50257
    assert gpt2.eos == 50256
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("<|endoftext|>", specials=True) == [50256]


def test_gpt2_agrees_with_transformers(gpt2: Tokenizer, shared_data: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes(
            gzip.decompress((shared_data / "lm/gpt2-bpe" / f"{name}.gz").read_bytes())
        )
    theirs = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    text = "Don't  panic:\n\n\tthe answer's 42 — naïve 日本語 \U0001f600 x  "
    assert gpt2.encode(text) == theirs.encode(text, add_special_tokens=False)
    theirs.save_pretrained(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").encode(text) == gpt2.encode(text)


def test_directory_states_roles(byte_level: Tokenizer, tmp_path: Path) -> None:
    byte_level.save(tmp_path / "tokenizer.json")
    config = {
        "eos_token": {"content": "a", "lstrip": False},
        "pad_token": "b",
        "bos_token": None,
        "unk_token": "nowhere",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eos, loaded.pad, loaded.unk) == (byte_level.id("a"), byte_level.id("b"), None)
    (tmp_path / "special_tokens_map.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"special_tokens_map.json: not JSON"):
        Tokenizer.load(tmp_path)


def test_bert_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    bert = Tokenizer.load(tmp_path)
    assert [bert.token(i) for i in bert.encode("Human RIGHTS, freedom", template=True)] == [
        "[CLS]",
        "human",
        "rights",
        ",",
        "free",
        "##dom",
        "[SEP]",
    ]
    assert bert.decode(bert.encode("human rights")) == "human rights"


def test_cased_vocabulary_keeps_case(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "Human"]) + "\n")
    bert = Tokenizer.load(tmp_path)
    assert [bert.token(i) for i in bert.encode("Human human")] == ["Human", "human"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no tokenizer.json, no vocab.json with merges.txt"),
        ({"tokenizer.json": "{"}, "not a tokenizer.json"),
        ({"tokenizer.json": b"\xff\xfe"}, "cannot be read"),
        ({"vocab.json": "{}", "merges.txt": "#version: 0.2\na b c\n"}, "merge 'a b c' is not two tokens"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "x y\n"}, "not GPT-2's files"),
        ({"vocab.txt": "just\nwords\n"}, r"no \[UNK\] entry"),
        ({"tokenizer.json.gz": b"\x1f\x8b\x08\x00damaged"}, "cannot be read"),
    ],
)
def test_what_cannot_be_loaded_is_named(tmp_path: Path, files: dict[str, str | bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_missing_path_is_named() -> None:
    with pytest.raises(TokenizerError, match="/no/where: no such file"):
        Tokenizer.load("/no/where")


def test_only_gpt2s_own_pattern_counts_as_plain(
    byte_level: Tokenizer, unigram: Tokenizer, wordpiece: Tokenizer
) -> None:
    assert byte_level.cuts_at_space
    assert not unigram.cuts_at_space
    assert not wordpiece.cuts_at_space
    definition = json.loads(byte_level.to_json())
    prefixed = {**definition, "pre_tokenizer": {**definition["pre_tokenizer"], "add_prefix_space": True}}
    assert not is_plain_byte_level(prefixed)
    inner = tokenizers.Tokenizer.from_str(byte_level.to_json())
    inner.normalizer = tokenizers.normalizers.NFC()
    assert not Tokenizer(inner).cuts_at_space
