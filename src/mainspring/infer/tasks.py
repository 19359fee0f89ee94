"""What encoders do with texts: embed, classify, score, tag, find a span.

    engine = Engine.load("models/sentiment")
    engine.classify(["a fine film"])[0].label

Texts longer than the model reads are cut for embeddings, classes and scores (and the answer says so); for
tags and spans they are read in windows that overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.data.batch import TokenBatch
from mainspring.errors import UsageError
from mainspring.finetune.heads import Task, TaskModel
from mainspring.finetune.pooling import Embedder, Pooling, pool
from mainspring.infer.answers import Answer, Classification, Embeddings, Tags
from mainspring.infer.reader import Reader
from mainspring.infer.spans import Window, best_answer
from mainspring.infer.tagging import Reading, tags_of
from mainspring.nn.transformer import Transformer
from mainspring.text.framing import Frame, Framer
from mainspring.text.tokenizer import Tokenizer

STRIDE = 0.25
"""Part of a window that the next one reads again."""
_DOES = {"classify": "classify", "tag": "tag", "span": "find a span", "score": "score a text or pair"}


class EncoderTasks:
    """An encoder with what stands on it."""

    def __init__(
        self,
        model: Transformer | TaskModel | Embedder,
        tokenizer: Tokenizer,
        *,
        max_tokens: int | None = None,
        causal: bool = False,
        reader: Reader | None = None,
    ) -> None:
        """`max_tokens`: of a text with its frame (None: the model's positions); `causal`: each token sees
        those before it alone; `reader`: runs the encoder (None: one is made)."""
        self._model = model
        self.encoder = model if isinstance(model, Transformer) else model.encoder
        self._causal = causal
        said = model.embed_config.max_tokens if isinstance(model, Embedder) else None
        self.max_tokens = max_tokens or said or self.encoder.config.max_positions
        self.reader = Reader(self.encoder, causal=causal) if reader is None else reader
        self._tokenizer = tokenizer

    @cached_property
    def _framer(self) -> Framer:
        return Framer(self._tokenizer, self.max_tokens, int(self.max_tokens * STRIDE))

    @property
    def task(self) -> Task | None:
        """What the head is for; None: there is none."""
        return self._model.head_config.task if isinstance(self._model, TaskModel) else None

    def read_with(self, forward: Callable[[TokenBatch], Tensor]) -> None:
        """Run the encoder by another function of a batch of padded rows, as `reader.hidden_states`."""
        self.reader = Reader(self.encoder, causal=self._causal, packs=False)
        self.reader.forward = forward

    def embed(
        self, texts: Sequence[str], *, pooling: Pooling | None = None, normalize: bool | None = None
    ) -> Embeddings:
        """A vector of each text.

        Args:
            texts: any number.
            pooling: what of a text's tokens becomes its vector; None: as the model was published, else the
                mean (of a causal model the last token).
            normalize: whether vectors are brought to length 1; None: as the model was published, else not.

        Raises:
            UsageError: `pooling` is given to a model with layers behind its own.
        """
        frames = self._framer.frame(list(texts))
        model = self._model
        vectors: list[Tensor | None] = [None] * len(frames)
        if isinstance(model, Embedder) and model.dense and pooling is not None:
            raise UsageError(
                f"pooling = {pooling!r}: this model has dense layers that take its own pooling; leave it out"
            )
        if normalize is None:
            normalize = isinstance(model, Embedder) and model.embed_config.normalize
        with torch.inference_mode():
            for batch in self.reader.run(frames):
                hidden = batch.hidden.float()
                if isinstance(model, Embedder) and pooling is None:
                    made = model.pooled(hidden, batch.valid).float()
                else:
                    made = pool(hidden, batch.valid, pooling or ("last" if self._causal else "mean"))
                made = F.normalize(made, dim=-1) if normalize else made
                for number, vector in zip(batch.numbers, made.cpu(), strict=True):
                    vectors[number] = vector
        width = self.encoder.config.d_model
        joined = torch.stack([v for v in vectors if v is not None]) if frames else torch.zeros(0, width)
        return Embeddings(joined, tuple(len(f.ids) for f in frames), tuple(f.cut for f in frames))

    def classify(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Classification]:
        """Classes of each text, or pair of texts.

        Raises:
            UsageError: the model has no such head.
        """
        head = self._head("classify").head_config
        frames = self._frames(texts)
        given: list[Classification | None] = [None] * len(frames)
        for numbers, logits, _ in self._logits(frames):
            probability = logits.sigmoid() if head.several else logits.softmax(-1)
            for number, row in zip(numbers, probability.tolist(), strict=True):
                best = max(range(len(row)), key=row.__getitem__)
                scores = dict(zip(head.labels, row, strict=True))
                holds = tuple(label for label, p in scores.items() if p >= 0.5)
                labels = holds if head.several else (head.labels[best],)
                given[number] = Classification(
                    head.labels[best], row[best], scores, labels, frames[number].cut
                )
        return [one for one in given if one is not None]

    def score(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[float]:
        """One number of each text or pair: a ranking model's score of a question and a passage.

        Raises:
            UsageError: the model has no such head.
        """
        self._head("score")
        frames = self._frames(texts)
        scores = [0.0] * len(frames)
        for numbers, logits, _ in self._logits(frames):
            for number, value in zip(numbers, logits[:, 0].tolist(), strict=True):
                scores[number] = value
        return scores

    def tag(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> list[Tags]:
        """A tag of every word.

        Args:
            texts: strings, whose words are as the tokenizer splits them; or lists of words, whose places are
                then those in the words joined by spaces.

        Raises:
            UsageError: the model has no such head.
        """
        labels = self._head("tag").head_config.labels
        words = [None if isinstance(text, str) else list(text) for text in texts]
        plain = [" ".join(text) if not isinstance(text, str) else text for text in texts]
        frames: list[Frame] = []
        for number, split in enumerate(words):
            made = (
                self._framer.frame([plain[number]], windows=True)
                if split is None
                else self._framer.frame_words([split], windows=True)
            )
            frames += [frame._replace(text=number) for frame in made]
        readings: dict[int, list[Reading]] = defaultdict(list)
        for numbers, logits, _ in self._logits(frames):
            for row, number in enumerate(numbers):
                frame = frames[number]
                probability = logits[row, : len(frame.ids)].softmax(-1)
                readings[frame.text].append(Reading(frame, probability))
        return [tags_of(text, words[k], readings[k], labels) for k, text in enumerate(plain)]

    def span(
        self, questions: Sequence[tuple[str, str]], *, no_answer: bool = False, max_answer_tokens: int = 30
    ) -> list[Answer]:
        """The answer to each (question, context), verbatim from the context.

        Args:
            questions: pairs of question and context.
            no_answer: whether "there is none" is among the answers (for models trained so: SQuAD 2).
            max_answer_tokens: tokens of an answer at most.

        Raises:
            UsageError: the model has no such head.
            TokenizerError: a question leaves no room for its context.
        """
        self._head("span")
        frames = self._framer.frame_pairs(list(questions), windows=True)
        windows: dict[int, list[Window]] = defaultdict(list)
        for numbers, logits, _ in self._logits(frames):
            for row, number in enumerate(numbers):
                frame = frames[number]
                windows[frame.text].append(Window(frame, logits[row, : len(frame.ids)].cpu()))
        return [
            best_answer(context, windows[k], no_answer=no_answer, most=max_answer_tokens)
            for k, (_, context) in enumerate(questions)
        ]

    def _head(self, task: Task) -> TaskModel:
        if isinstance(self._model, TaskModel) and self._model.head_config.task == task:
            return self._model
        can = "embed" if self.task is None else f"{_DOES[self.task]}, and embed"
        raise UsageError(
            f"this model has no head to {_DOES[task]}: it can {can}; fine-tune it for the task, or load one "
            f"that was"
        )

    def _frames(self, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[Frame]:
        singles = [text for text in texts if isinstance(text, str)]
        if len(singles) == len(texts):
            return self._framer.frame(singles)
        pairs = [text for text in texts if not isinstance(text, str)]
        if len(pairs) < len(texts) or any(len(pair) != 2 for pair in pairs):
            raise UsageError("give texts alone, or pairs of two texts alone, in one call")
        return self._framer.frame_pairs([(str(a), str(b)) for a, b in pairs])

    def _logits(self, frames: Sequence[Frame]) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
        """Numbers, fp32 logits and validity of each batch."""
        model = self._model
        assert isinstance(model, TaskModel)
        with torch.inference_mode():
            for batch in self.reader.run(frames):
                yield batch.numbers, model.read(batch.hidden).float(), batch.valid
