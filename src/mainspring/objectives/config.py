"""Settings of the objectives: a union told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mainspring.config import Section


class CausalConfig(Section):
    """Predict the next token."""

    kind: Literal["clm"] = "clm"
    """Causal language modelling."""


class ReplacementConfig(Section):
    """What stands in place of a token to predict; base of the objectives that hide tokens."""

    mask_share: float = Field(0.8, ge=0, le=1)
    """Of the tokens to predict, the share that is replaced by the mask token."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Of the tokens to predict, the share that is replaced by a random token; the rest stay as they are."""

    def model_post_init(self, _context: object) -> None:
        """The two shares together are at most the whole."""
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(f"mask_share {self.mask_share} + random_share {self.random_share} > 1")


class MaskedConfig(ReplacementConfig):
    """Predict tokens that were hidden, in whole words and runs of words."""

    kind: Literal["mlm"] = "mlm"
    """Masked language modelling."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is predicted (Devlin et al. 2019: 0.15)."""
    max_ngram: int = Field(3, ge=1, le=16)
    """Longest run of words masked as one; lengths n have probability proportional to 1/n."""
    whole_words: bool = True
    """Mask all the pieces of a word or none; off, every token is a word."""


class PseudoMaskedConfig(ReplacementConfig):
    """Predict blocks of hidden tokens, each at once and one block after another (UniLMv2)."""

    kind: Literal["pmlm"] = "pmlm"
    """Pseudo-masked language modelling."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is predicted, reached from above by less than a block."""
    block_share: float = Field(0.4, ge=0, le=1)
    """Probability that a block has several tokens."""
    max_block: int = Field(6, ge=1, le=64)
    """Most tokens of a block; those of several have 2 to so many, each with equal chance."""
    par_weight: float = Field(1.0, ge=0)
    """Weight of the partially autoregressive loss beside the autoencoding one."""


class PrefixConfig(Section):
    """Continue a source with its target, on pairs (Turing-NLG's supervised tasks; Raffel et al. 2020)."""

    kind: Literal["prefix"] = "prefix"
    """Prefix language modelling."""
    bidirectional: bool = True
    """Whether tokens of the source all see one another; off, each sees those before it, as in GPT-2."""
    max_source: int = Field(464, ge=1)
    """Tokens of a source that are kept."""
    max_target: int = Field(48, ge=1)
    """Tokens of a target that are kept."""


class Seq2SeqConfig(ReplacementConfig):
    """Learn to write the target of a pair after its source, by one stack (UniLM's fine-tuning, s2s-ft)."""

    kind: Literal["s2s"] = "s2s"
    """Sequence to sequence."""
    mode: Literal["shift", "masked", "pseudo"] = "pseudo"
    """What predicts a token of the target: the token before it (s2s-ft's mode 0), a mask in its place where
    it is hidden (1), or a pseudo-mask beside it, for every token at once (2)."""
    target_mask_rate: float = Field(0.5, ge=0, le=1)
    """Probability that a token of the target is replaced: in mode 1 those are the ones to predict (Dong et
    al. 2019: 0.7), else it is noise on what later tokens see."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Probability spread over the other tokens."""
    source_type: int = Field(0, ge=0)
    """Segment of the source (pre-training of UniLM v1: 4)."""
    target_type: int = Field(1, ge=0)
    """Segment of the target (pre-training of UniLM v1: 5)."""
    max_source: int = Field(464, ge=1)
    """Tokens of a source that are kept."""
    max_target: int = Field(48, ge=1)
    """Tokens of a target that are kept."""


class UnilmConfig(ReplacementConfig):
    """Hide tokens of text that is read in both directions, in either, or from a source to a target."""

    kind: Literal["unilm"] = "unilm"
    """UniLM v1's mixture."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is predicted."""
    bidirectional: float = Field(1 / 3, ge=0)
    """Share of rows read in both directions (the four shares need not sum to 1)."""
    seq2seq: float = Field(1 / 3, ge=0)
    """Share of rows read from a source to a target."""
    left_to_right: float = Field(1 / 6, ge=0)
    """Share of rows read forward."""
    right_to_left: float = Field(1 / 6, ge=0)
    """Share of rows read backward."""
    ngram_share: float = Field(0.2, ge=0, le=1)
    """Share of runs that are two or three tokens long, with equal chance."""
    next_sentence_weight: float = Field(0.0, ge=0)
    """Weight of telling, in rows read in both directions, whether the second part goes on with the first or
    is from elsewhere; needs `model.config.pair_classes = 2` (v1: 1; v2 and 0: without it)."""


class ReplacedConfig(ReplacementConfig):
    """Find the tokens that a generator, trained beside the model, has put into a text (ELECTRA, DeBERTa-v3;
    on many languages MRTD, on pairs TRTD)."""

    kind: Literal["rtd"] = "rtd"
    """Replaced token detection."""
    text: Literal["plain", "pairs"] = "plain"
    """Rows of text, or translation pairs."""
    reset_positions: bool = False
    """Of pairs: whether positions begin again at the translation."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that the generator fills."""
    mask_share: float = Field(1.0, ge=0, le=1)
    """Of the tokens to fill, the share that the generator sees as the mask token."""
    random_share: float = Field(0.0, ge=0, le=1)
    """Of the tokens to fill, the share that it sees as a random token; it sees the rest as they are."""
    max_ngram: int = Field(1, ge=1, le=16)
    """Longest run of words masked as one."""
    whole_words: bool = True
    """Mask all the pieces of a word or none (DeBERTa-v3); off, every token is a word (XLM-E)."""
    weight: float = Field(50.0, ge=0)
    """Weight of finding beside filling, lambda of the papers."""
    embeddings: Literal["shared", "separate", "disentangled"] = "disentangled"
    """Tables of tokens and positions of the two: one; one each; or the generator's, of which the model
    learns the difference (ES, NES, GDES)."""
    generator: dict[str, Any] = Field(default_factory=dict)
    """Fields of the generator's configuration that differ from: the model's, with half its layers."""


class TranslationConfig(ReplacementConfig):
    """Predict tokens hidden in a text and its translation, on pairs (XLM, InfoXLM)."""

    kind: Literal["tlm"] = "tlm"
    """Translation language modelling."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is predicted."""
    reset_positions: bool = True
    """Whether positions begin again at the translation (XLM; InfoXLM and XLM-E: not)."""


class ContrastConfig(ReplacementConfig):
    """Tell a text from others by its translation, on pairs (InfoXLM); two pairs a row give mixup contrast."""

    kind: Literal["xlco"] = "xlco"
    """Cross-lingual contrast."""
    layer: int = Field(8, ge=0)
    """Layer whose first token stands for a text (InfoXLM base: 8)."""
    queue: int = Field(131072, ge=1)
    """Keys of former steps that are kept as negatives."""
    momentum: float = Field(0.9999, ge=0, le=1)
    """Share of itself that the slow copy keeps in a step (InfoXLM base: 0.9999, large: 0.999)."""
    temperature: float = Field(0.25, gt=0)
    """Divides the products of queries and keys."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is hidden, in the contrast as in translation language modelling."""
    tlm_weight: float = Field(1.0, ge=0)
    """Weight of translation language modelling on the same pairs; 0: without it."""


class DenoisingConfig(Section):
    """Undo noise on a text, with an encoder and a decoder (T5, BART, Z-code)."""

    kind: Literal["dae"] = "dae"
    """Denoising."""
    noise: Literal["spans", "infill", "order"] = "infill"
    """Spans behind sentinels, of which the target names what is missing (T5); spans behind a mask each
    (BART); or tokens out of order, both with the whole text as the target."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens in spans."""
    mean_span: float = Field(3.0, ge=1)
    """Mean length of a span, in tokens."""
    sentinels: tuple[int, ...] = ()
    """Ids of the tokens that stand for spans, in order (noise `spans`)."""
    distance: float = Field(3.0, ge=0)
    """Places that no token reaches when moving (noise `order`)."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Probability spread over the other tokens."""


class TranslateConfig(Section):
    """Write the target of a pair, with an encoder and a decoder."""

    kind: Literal["mt"] = "mt"
    """Translation."""
    language_tags: tuple[int, ...] = ()
    """Ids of the tokens that tell the encoder the target's language, by language index; empty: none is put
    before the source."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Probability spread over the other tokens (Vaswani et al. 2017: 0.1)."""
    max_source: int = Field(254, ge=1)
    """Tokens of a source that are kept."""
    max_target: int = Field(254, ge=1)
    """Tokens of a target that are kept."""


class UnicoderConfig(ReplacementConfig):
    """Recover words from a translation, tell translations from other texts, and read a text of two languages,
    on several pairs a row (Unicoder)."""

    kind: Literal["unicoder"] = "unicoder"
    """Unicoder's tasks."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the maskable tokens that is hidden in the text of two languages."""
    reset_positions: bool = True
    """Whether positions begin again at the translation, where translations are to be told."""
    recovery_weight: float = Field(1.0, ge=0)
    """Weight of the recovery of words."""
    paraphrase_weight: float = Field(1.0, ge=0)
    """Weight of telling translations."""
    masked_weight: float = Field(1.0, ge=0)
    """Weight of hidden tokens in the text of two languages."""


Relation = Literal["qq", "qk", "qv", "kq", "kk", "kv", "vq", "vk", "vv"]
"""Two of a layer's queries, keys and values."""


class DistillConfig(Section):
    """Relate tokens as a trained model does (MiniLM, MiniLMv2), and, if asked, say the same as it."""

    kind: Literal["distill"] = "distill"
    """Distillation."""
    teacher: str
    """A run, a checkpoint or an exported model, with the data's tokenizer."""
    relations: dict[Relation, float] = {"qq": 1 / 3, "kk": 1 / 3, "vv": 1 / 3}
    """Weight of each relation: of queries, keys or values with one another (MiniLM: qk = 1 and vv = 1;
    MiniLMv2: qq, kk and vv alike)."""
    relation_heads: int | None = Field(None, ge=1)
    """Heads into which the widths of both are cut (MiniLMv2: 48 for teachers of base size, 64 for large
    ones; None: the teacher's own, as MiniLM has it)."""
    teacher_layer: int | None = Field(None, ge=1)
    """The teacher's layer to learn from, counted from 1 (None: its last; MiniLMv2: 21 of BERT-large, 19 of
    RoBERTa-large)."""
    causal: bool = False
    """Whether a token sees those before it alone (GPT-2); off, all of its text."""
    begin: bool = True
    """Whether texts read in both directions get the tokenizer's first token ([CLS]) before them."""
    hidden_weight: float = Field(0.0, ge=0)
    """Weight of the mean squared difference of the last hidden states; needs the same d_model."""
    logits_weight: float = Field(0.0, ge=0)
    """Weight of the divergence of what is predicted at each token (Hinton et al. 2015)."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits of both."""
    text_weight: float = Field(0.0, ge=0)
    """Weight of 1 - cosine of the texts' mean hidden states, which embeddings are made of; needs the same
    d_model."""

    def model_post_init(self, _context: object) -> None:
        """Something has to be learnt, and no weight is below 0."""
        if any(weight < 0 for weight in self.relations.values()):
            raise ValueError(f"relations = {self.relations}: weights are at least 0")
        if not any((*self.relations.values(), self.hidden_weight, self.logits_weight, self.text_weight)):
            raise ValueError("every weight is 0, so nothing would be learnt; give relations a weight")


class StudentConfig(Section):
    """Learn from text and, for a part of the run, from a larger model of the same kind (the mixture of
    students of DeepSpeed-MoE)."""

    kind: Literal["mos"] = "mos"
    """Mixture of students."""
    teacher: str
    """A run, a checkpoint or an exported model, with the data's tokenizer."""
    text: Annotated[CausalConfig | MaskedConfig, Field(discriminator="kind")] = CausalConfig()
    """What is learnt from the text."""
    weight: float = Field(1.0, gt=0)
    """Weight of the divergence from the teacher's predictions beside the loss on the text (alpha)."""
    temperature: float = Field(1.0, gt=0)
    """Divides the logits of both."""
    until: int | None = Field(None, ge=0)
    """Step from which on the teacher is not asked any more (DeepSpeed-MoE: late in training, before its loss
    begins to hurt); null asks it to the end."""


TextConfig = Annotated[
    CausalConfig | MaskedConfig | PseudoMaskedConfig | UnilmConfig | ReplacedConfig | DenoisingConfig,
    Field(discriminator="kind"),
]
"""An objective on rows of text."""

PairsConfig = Annotated[
    PrefixConfig
    | Seq2SeqConfig
    | ReplacedConfig
    | TranslationConfig
    | ContrastConfig
    | TranslateConfig
    | UnicoderConfig,
    Field(discriminator="kind"),
]
"""An objective on pairs."""


class MixedConfig(Section):
    """Train on text and on pairs in every step (InfoXLM, XLM-E, Z-code); needs `data.pairs_share` below 1."""

    kind: Literal["mixed"] = "mixed"
    """An objective for text and one for pairs."""
    text: TextConfig
    """What is done with rows of text."""
    pairs: PairsConfig
    """What is done with pairs."""
    text_weight: float = Field(1.0, ge=0)
    """Weight of all losses on text."""
    pairs_weight: float = Field(1.0, ge=0)
    """Weight of all losses on pairs."""

    def model_post_init(self, _context: object) -> None:
        """Replaced tokens are found in what the part is for."""
        for part in ("text", "pairs"):
            wanted = "plain" if part == "text" else "pairs"
            config = getattr(self, part)
            if isinstance(config, ReplacedConfig) and config.text != wanted:
                raise ValueError(f"{part}.text = {config.text!r}: of {part} it has to be {wanted!r}")


ObjectiveConfig = Annotated[
    CausalConfig
    | MaskedConfig
    | PseudoMaskedConfig
    | PrefixConfig
    | Seq2SeqConfig
    | UnilmConfig
    | ReplacedConfig
    | TranslationConfig
    | ContrastConfig
    | DenoisingConfig
    | TranslateConfig
    | UnicoderConfig
    | DistillConfig
    | StudentConfig
    | MixedConfig,
    Field(discriminator="kind"),
]
"""Any objective."""


def reads_pairs(config: ObjectiveConfig) -> bool:
    """Whether an objective reads pairs, alone or beside text."""
    if isinstance(config, ReplacedConfig):
        return config.text == "pairs"
    return isinstance(
        config,
        PrefixConfig
        | Seq2SeqConfig
        | TranslationConfig
        | ContrastConfig
        | TranslateConfig
        | UnicoderConfig
        | MixedConfig,
    )


def predicted_share(config: ObjectiveConfig) -> float:
    """Share of the tokens of a row for which logits are computed: what the planner has to know of it."""
    match config:
        case PseudoMaskedConfig():
            return min(1.0, 2 * config.rate)
        case DistillConfig():
            return 1.0 if config.logits_weight else 0.0
        case MaskedConfig() | UnilmConfig() | ReplacedConfig() | TranslationConfig() | ContrastConfig():
            return config.rate
        case StudentConfig():
            return predicted_share(config.text)
        case MixedConfig():
            return max(predicted_share(config.text), predicted_share(config.pairs))
        case _:
            return 1.0
