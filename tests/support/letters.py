"""A tokenizer whose tokens are letters."""

from tokenizers import Tokenizer as Inner
from tokenizers import models, pre_tokenizers

from mainspring.text.tokenizer import Tokenizer


def letters(*, marks: bool = True) -> Tokenizer:
    """Letters a to z and ?, with [CLS] and [SEP] or without."""
    special = ["[PAD]", "[UNK]", *(["[CLS]", "[SEP]"] if marks else [])]
    vocabulary = {token: i for i, token in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz?"])}
    inner = Inner(models.WordLevel(vocabulary, unk_token="[UNK]"))
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")])
    inner.pre_tokenizer = split
    inner.add_special_tokens(special)
    return Tokenizer(inner)
