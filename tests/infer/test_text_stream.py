"""Text from tokens as they come equals the text of all of them, cut at the first stop string."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from mainspring.infer.text_stream import REPLACEMENT, TextStream
from mainspring.text import Tokenizer, train_tokenizer

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("cat sat猫🐈é ", max_size=40)


def emit(
    tokenizer: Tokenizer, ids: list[int], stops: tuple[str, ...] = (), context: list[int] | None = None
) -> list[str]:
    stream = TextStream(tokenizer, stops, context or [])
    parts = []
    for token in ids:
        parts.append(stream.push(token))
        if stream.stopped:
            return parts
    return [*parts, stream.finish()]


@given(text=TEXTS)
def test_pieces_are_whole_characters_and_make_the_text(tokenizer: Tokenizer, text: str) -> None:
    parts = emit(tokenizer, tokenizer.encode(text))
    assert "".join(parts) == text
    assert REPLACEMENT in text or not any(REPLACEMENT in part for part in parts)


@given(data=st.data())
def test_any_tokens_make_their_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    assert "".join(emit(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=TEXTS, stops=st.lists(st.text("cat sat猫🐈é", min_size=1, max_size=5), min_size=1, max_size=3))
def test_text_ends_before_the_first_stop(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    place = min((text.find(s) for s in stops if s in text), default=len(text))
    assert "".join(emit(tokenizer, tokenizer.encode(text), tuple(stops))) == text[:place]


def test_a_stop_across_tokens_is_held_back(tokenizer: Tokenizer) -> None:
    ids = [i for c in "abcXYZd" for i in tokenizer.encode(c)]
    parts = emit(tokenizer, ids, ("XYZ",))
    assert parts == ["a", "b", "c", "", "", ""]


def test_what_was_held_back_comes_when_it_is_no_stop(tokenizer: Tokenizer) -> None:
    ids = [i for c in "aXYb" for i in tokenizer.encode(c)]
    assert emit(tokenizer, ids, ("XYZ",)) == ["a", "", "", "XYb", ""]
    assert emit(tokenizer, ids[:3], ("XYZ",)) == ["a", "", "", "XY"]


def test_half_a_character_at_the_end_is_said_to_be_so(tokenizer: Tokenizer) -> None:
    cat = [tokenizer.encode("é")[0]] if len(tokenizer.encode("é")) > 1 else tokenizer.encode("𝄞")[:2]
    parts = emit(tokenizer, cat)
    assert parts[:-1] == [""] * len(cat)
    assert parts[-1] == REPLACEMENT


def test_a_completion_keeps_its_leading_space_after_a_prompt() -> None:
    words = train_tokenizer(["one two three four five six seven"] * 20, "unigram", 300)
    prompt, after = (
        words.encode("one two"),
        words.encode("one two three four")[len(words.encode("one two")) :],
    )
    assert words.encode("one two") == words.encode("one two three four")[: len(prompt)]
    assert "".join(emit(words, after, context=prompt)) == " three four"


def byte_fallback() -> Tokenizer:
    """Every byte is a token that a decoder joins, as in SentencePiece vocabularies with byte fallback."""
    vocabulary = {f"<0x{b:02X}>": b for b in range(256)}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return Tokenizer(inner)


@pytest.mark.parametrize("text", ["猫は魚が好き、東京の猫。" * 3, "🐈🐟🐈🐟🐈", "café"])
def test_byte_fallback_never_shows_half_a_character(text: str) -> None:
    parts = emit(byte_fallback(), list(text.encode()))
    assert "".join(parts) == text
    assert not any(REPLACEMENT in part for part in parts)
