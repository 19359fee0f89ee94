"""Round trips, special tokens, bytes of tokens, saving."""

import json
import os
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from mainspring.errors import TokenizerError
from mainspring.text import Tokenizer

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
mixed = st.one_of(
    texts, st.lists(st.sampled_from(["<|endoftext|>", " ", "\n", "é", "日本", "a", "'s"])).map("".join)
)


@given(mixed)
@example("<|endoftext|> twice <|endoftext|>")
@example("\x00\r\n\u2028 \u200d\U0001f469\u200d\U0001f4bb")
def test_byte_level_spells_every_text(byte_level: Tokenizer, text: str) -> None:
    assert byte_level.decode(byte_level.encode(text)) == text


@given(mixed)
def test_byte_level_counts_the_bytes_of_every_text(byte_level: Tokenizer, text: str) -> None:
    assert byte_level.token_bytes(byte_level.encode(text)) == len(text.encode())


@given(
    st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="▁"), max_size=50
    )
)
def test_unigram_spells_letters_outside_its_vocabulary(unigram: Tokenizer, text: str) -> None:
    ids = unigram.encode(text)
    assert unigram.unk not in ids
    assert unigram.decode(ids) == unicodedata.normalize("NFKC", text).strip(" ")


def test_unigram_counts_the_bytes_of_normalised_text(unigram: Tokenizer) -> None:
    assert unigram.token_bytes(unigram.encode("human rights Ω")) == len(" human rights Ω".encode())


def test_wordpiece_counts_letters_and_a_space_for_each_word(wordpiece: Tokenizer) -> None:
    ids = wordpiece.encode("Human dignity")
    assert wordpiece.token_bytes(ids) == len(" human dignity")
    assert wordpiece.token_bytes(wordpiece.encode("Human dignity", template=True)) == len(" human dignity")


def test_special_tokens_in_text_are_text_unless_asked_for(
    byte_level: Tokenizer, wordpiece: Tokenizer
) -> None:
    assert byte_level.eos not in byte_level.encode("a<|endoftext|>b")
    assert byte_level.encode("a<|endoftext|>b", specials=True) == [
        *byte_level.encode("a"),
        byte_level.eos,
        *byte_level.encode("b"),
    ]
    assert wordpiece.mask in wordpiece.encode("the [MASK] of", specials=True)
    assert wordpiece.mask not in wordpiece.encode("the [MASK] of")


def test_template_adds_what_the_tokenizer_defines(wordpiece: Tokenizer, byte_level: Tokenizer) -> None:
    plain = wordpiece.encode("human rights")
    assert wordpiece.encode("human rights", template=True) == [wordpiece.cls, *plain, wordpiece.sep]
    assert byte_level.encode("human", template=True) == byte_level.encode("human")


def test_special_ids_by_kind(byte_level: Tokenizer, unigram: Tokenizer, wordpiece: Tokenizer) -> None:
    assert (byte_level.eos, byte_level.pad, byte_level.mask, byte_level.separator) == (0, 0, None, 0)
    assert (unigram.pad, unigram.eos, unigram.unk) == (0, 1, 2)
    ids = [wordpiece.pad, wordpiece.unk, wordpiece.cls, wordpiece.sep, wordpiece.mask]
    assert ids == [0, 1, 2, 3, 4]
    assert wordpiece.eos is None
    assert wordpiece.separator == wordpiece.sep
    assert byte_level.token_bytes([0, 0]) == 0


def test_batch_is_the_texts_one_by_one(byte_level: Tokenizer, declaration: dict[str, str]) -> None:
    batch = list(declaration.values())
    assert byte_level.encode_batch(batch) == [byte_level.encode(text) for text in batch]


def test_decode_keeps_or_drops_special_tokens(byte_level: Tokenizer) -> None:
    ids = [*byte_level.encode("end"), byte_level.eos]
    assert byte_level.decode(ids) == "end"
    assert byte_level.decode(ids, skip_special=False) == "end<|endoftext|>"
    assert byte_level.decode(np.array(ids)) == "end"


def test_saved_tokenizer_is_the_same(byte_level: Tokenizer, tmp_path: os.PathLike[str]) -> None:
    byte_level.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.hash, again.specials, again.vocab) == (
        byte_level.hash,
        byte_level.specials,
        byte_level.vocab,
    )
    alone = tmp_path / "other" / "tokenizer.json"
    byte_level.save(alone)
    assert Tokenizer.load(alone).hash == byte_level.hash
    assert not (tmp_path / "other" / "special_tokens_map.json").exists()


def test_hash_tells_tokenizers_and_roles_apart(byte_level: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(byte_level.to_json())
    assert Tokenizer(inner).hash == byte_level.hash
    assert (
        Tokenizer(tokenizers.Tokenizer.from_str(byte_level.to_json()), {"bos": "a"}).hash != byte_level.hash
    )
    assert len(byte_level.hash) == 64


def test_roles_are_checked(byte_level: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(byte_level.to_json())
    with pytest.raises(TokenizerError, match="'<nowhere>' is not in the vocabulary"):
        Tokenizer(inner, {"eos": "<nowhere>"})
    with pytest.raises(TokenizerError, match="role 'end' is unknown; roles: eos"):
        Tokenizer(inner, {"end": "a"})


def test_truncation_and_padding_of_a_checkpoint_do_not_act(byte_level: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(byte_level.to_json())
    inner.enable_truncation(2)
    inner.enable_padding(length=64)
    text = "All human beings are born free"
    assert Tokenizer(tokenizers.Tokenizer.from_str(inner.to_str())).encode(text) == byte_level.encode(text)


def test_what_is_not_text_is_named(byte_level: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="text 1: character 2 is a lone surrogate"):
        byte_level.encode_batch(["fine", "ab\ud800"])
    with pytest.raises(TokenizerError, match="text 0 is a int"):
        byte_level.encode_batch([3])


def test_words_begin_where_a_space_does(byte_level: Tokenizer, wordpiece: Tokenizer) -> None:
    ids = byte_level.encode("human rights")
    starts = [place for place, index in enumerate(ids) if byte_level.starts_word[index]]
    assert "".join(byte_level.decode([i]) for i in ids[starts[0] :]) == " rights"
    ids = wordpiece.encode("humanity rights")
    assert sum(wordpiece.starts_word[ids]) == 2


def test_encoding_after_fork_gives_the_same(byte_level: Tokenizer, tmp_path: os.PathLike[str]) -> None:
    byte_level.save(tmp_path / "tokenizer.json")
    script = """
import os, sys
from mainspring.text import Tokenizer
tokenizer = Tokenizer.load(sys.argv[1])
texts = ["All human beings are born free and equal"] * 64
before = tokenizer.encode_batch(texts)   # starts the library's threads
child = os.fork()
if child == 0:
    os._exit(0 if tokenizer.encode_batch(texts) == before else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "tokenizer.json")], timeout=60, check=False
    )
    assert done.returncode == 0


def test_definition_is_json(byte_level: Tokenizer) -> None:
    assert json.loads(byte_level.to_json())["model"]["type"] == "BPE"
