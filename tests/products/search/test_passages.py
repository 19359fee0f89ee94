"""Passages lie end to end, sentences lie within them, and neither loses a letter."""

from hypothesis import given
from hypothesis import strategies as st

from mainspring.products.search.passages import LONGEST_SENTENCE, MOST, cut, sentences

TEXTS = st.text(alphabet=st.sampled_from("ab c.\n!?。 \t-é中"), max_size=4000)


@given(TEXTS)
def test_joined_they_are_the_text(text: str) -> None:
    passages = cut(text)
    assert "".join(p.text for p in passages) == (text if text.strip() else "")
    at = 0
    for passage in passages:
        assert passage.start == at
        assert passage.text.strip()
        at += len(passage.text)
        assert len(passage.text.strip()) <= MOST


@given(TEXTS)
def test_sentences_hold_every_letter_once_and_in_order(text: str) -> None:
    at = 0
    kept = []
    for start, stop in sentences(text):
        assert at <= start < stop <= len(text)
        assert stop - start <= LONGEST_SENTENCE
        assert text[start:stop] == text[start:stop].strip()
        kept.append(text[start:stop])
        at = stop
    letters = [c for c in text if c.isalnum()]
    assert [c for part in kept for c in part if c.isalnum()] == letters


def test_sentences_end_where_a_reader_ends_them() -> None:
    text = 'It works, e.g. here. Dr. Who said "No." Then 3.5 went up! '
    text += "日本の首都です。次の文。\n- a list\n- goes on"
    assert [text[a:b] for a, b in sentences(text)] == [
        "It works, e.g. here.",
        'Dr. Who said "No."',
        "Then 3.5 went up!",
        "日本の首都です。",
        "次の文。",
        "- a list",
        "- goes on",
    ]


def test_a_passage_ends_with_a_paragraph_where_it_can() -> None:
    paragraphs = [f"Paragraph {i} has words. " * 14 for i in range(6)]
    passages = cut("\n\n".join(paragraphs))
    assert len(passages) > 1
    assert all(p.text.endswith("\n\n") for p in passages[:-1])
    one = cut("word " * 1000)
    assert all(p.text.endswith("word ") for p in one)
