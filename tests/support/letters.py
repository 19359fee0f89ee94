"""A tokenizer whose tokens are letters."""

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Inner

from mainspring.text.tokenizer import Tokenizer


def letters(*, marks: bool = True) -> Tokenizer:
    """Letters a to z and ?, with [CLS] and [SEP] or without."""
    special = ["[PAD]", "[UNK]", *(["[CLS]", "[SEP]"] if marks else [])]
    vocabulary = {token: i for i, token in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz?"])}
    inner = Inner(models.WordLevel(vocabulary, unk_token="[UNK]"))
    each = pre_tokenizers.Split(Regex(r"\S"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), each])
    inner.add_special_tokens(special)
    return Tokenizer(inner)
