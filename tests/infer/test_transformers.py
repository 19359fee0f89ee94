"""Tokens are those of transformers' `generate`, greedy and beam, on random tiny GPT-2s."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, M2M100Config, M2M100ForConditionalGeneration

from mainspring.infer.beam import beam_search
from mainspring.infer.decode import Row, decode
from mainspring.infer.layout import Layout
from mainspring.infer.options import GenerateOptions
from mainspring.infer.runner import CachedRunner, PlainRunner
from mainspring.infer.writer import chosen_logits
from mainspring.models.hub import import_hf
from mainspring.nn import Transformer

VOCABULARY, POSITIONS, NEW = 60, 48, 12
PROMPTS = [[5, 9, 2, 7], [11], [30, 31, 32, 33, 34, 35, 36], [4, 4, 4, 8, 50]]


@pytest.fixture(params=range(6), scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Transformer]:
    """Their random model and ours with its weights."""
    torch.manual_seed(request.param)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = GPT2LMHeadModel(config).eval()
    folder: Path = tmp_path_factory.mktemp("gpt2")
    theirs.save_pretrained(folder)
    imported = import_hf(folder)
    ours = Transformer(imported.config)
    ours.load_state_dict(imported.state)
    return theirs, ours.eval()


def their_tokens(theirs: Any, prompts: list[list[int]], eos: int | None, **settings: Any) -> list[list[int]]:
    """What transformers generates after left-padded prompts, up to and with the end of text."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = copy.deepcopy(theirs.generation_config)
    config.update(max_new_tokens=NEW, do_sample=False, eos_token_id=eos, pad_token_id=0, **settings)
    rows = theirs.generate(ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
    if eos is None:
        return rows
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def our_tokens(
    ours: Transformer, prompts: list[list[int]], eos: int | None, options: GenerateOptions
) -> list[list[int]]:
    runner = (CachedRunner if options.use_cache else PlainRunner)(ours, VOCABULARY)
    first = chosen_logits(runner.prefill(prompts, NEW))
    if options.num_beams == 1:
        rows = [Row(prompt=p, index=0, limit=NEW) for p in range(len(prompts))]
        for _ in decode(runner, prompts, first, rows, options, eos):
            pass
        return [row.tokens for row in rows]
    best = {}
    for done in beam_search(runner, prompts, first, [NEW] * len(prompts), options, eos, lambda tokens: False):
        best.update(done)
    return [list(h.tokens) for p in range(len(prompts)) for h in best[p][: options.n]]


def early_eos(theirs: Any) -> int:
    """A token that greedy decoding soon chooses, so that rows end at different times."""
    rows = their_tokens(theirs, PROMPTS, None)
    return rows[0][3]


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("cache", [True, False])
def test_greedy(pair: tuple[Any, Transformer], ends: bool, cache: bool) -> None:
    theirs, ours = pair
    eos = early_eos(theirs) if ends else None
    options = GenerateOptions(use_cache=cache)
    assert our_tokens(ours, PROMPTS, eos, options) == their_tokens(theirs, PROMPTS, eos)


def test_greedy_with_repetition_penalty(pair: tuple[Any, Transformer]) -> None:
    theirs, ours = pair
    for prompt in PROMPTS:  # alone: transformers also penalises the padding of a batch
        expected = their_tokens(theirs, [prompt], None, repetition_penalty=1.4)
        assert our_tokens(ours, [prompt], None, GenerateOptions(repetition_penalty=1.4)) == expected


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_beam(pair: tuple[Any, Transformer], length_penalty: float, early_stopping: Any) -> None:
    theirs, ours = pair
    eos = early_eos(theirs)
    for beams, n in ((2, 1), (4, 3)):
        settings: dict[str, Any] = {
            "num_beams": beams,
            "length_penalty": length_penalty,
            "early_stopping": early_stopping,
        }
        expected = their_tokens(theirs, PROMPTS, eos, num_return_sequences=n, **settings)
        assert our_tokens(ours, PROMPTS, eos, GenerateOptions(n=n, **settings)) == expected


def test_beam_without_an_end_and_with_repetition_penalty(pair: tuple[Any, Transformer]) -> None:
    theirs, ours = pair
    options = GenerateOptions(num_beams=3, n=3)
    expected = their_tokens(theirs, PROMPTS, None, num_beams=3, num_return_sequences=3)
    assert our_tokens(ours, PROMPTS, None, options) == expected
    for prompt in PROMPTS:
        options = GenerateOptions(num_beams=3, repetition_penalty=1.3)
        expected = their_tokens(theirs, [prompt], 7, num_beams=3, repetition_penalty=1.3)
        assert our_tokens(ours, [prompt], 7, options) == expected


def test_beam_without_a_cache(pair: tuple[Any, Transformer]) -> None:
    theirs, ours = pair
    eos = early_eos(theirs)
    for cache in (True, False):
        options = GenerateOptions(num_beams=3, use_cache=cache)
        assert our_tokens(ours, PROMPTS, eos, options) == their_tokens(theirs, PROMPTS, eos, num_beams=3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_twice(pair: tuple[Any, Transformer], size: int) -> None:
    theirs, ours = pair
    for prompt in PROMPTS:  # alone: transformers also counts the padding of a batch
        for beams, n in ((1, 1), (3, 2)):
            settings = {"num_beams": beams, "repetition_penalty": 1.1}
            expected = their_tokens(
                theirs, [prompt], 7, no_repeat_ngram_size=size, num_return_sequences=n, **settings
            )
            options = GenerateOptions(no_repeat_ngram=size, n=n, **settings)
            assert our_tokens(ours, [prompt] * (n if beams == 1 else 1), 7, options) == expected


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_encoder_and_a_decoder(tmp_path: Path, seed: int, beams: int) -> None:
    torch.manual_seed(seed)
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads"), 2)
    theirs = M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=VOCABULARY,
            d_model=32,
            **sizes,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=POSITIONS,
            init_std=0.3,
            scale_embedding=False,
        )
    ).eval()
    # An end that comes too soon proves little.
    theirs.generation_config.update(suppress_tokens=None, max_length=None)
    theirs.save_pretrained(tmp_path)
    imported = import_hf(tmp_path)
    ours = Transformer(imported.config)
    ours.load_state_dict(imported.state)
    ours.eval()
    width, pad, start = max(map(len, PROMPTS)), 1, 13
    ids = torch.tensor([p + [pad] * (width - len(p)) for p in PROMPTS])
    expected = theirs.generate(
        ids,
        attention_mask=(torch.arange(width) < torch.tensor([[len(p)] for p in PROMPTS])).long(),
        max_new_tokens=NEW,
        num_beams=beams,
        do_sample=False,
        no_repeat_ngram_size=3,
        decoder_start_token_id=start,
        eos_token_id=7,
    )[:, 1:].tolist()
    layout = Layout(encoder=True, opening=(start,), continues=False, end=7)
    runner = CachedRunner(ours, VOCABULARY, layout)
    first, nothing = chosen_logits(runner.prefill(PROMPTS, NEW)), [[] for _ in PROMPTS]
    options = GenerateOptions(num_beams=beams, no_repeat_ngram=3)
    rows = [Row(prompt=p, index=0, limit=NEW) for p in range(len(PROMPTS))]
    if beams == 1:
        for _ in decode(runner, nothing, first, rows, options, 7):
            pass
    else:
        for done in beam_search(runner, nothing, first, [NEW] * 4, options, 7, lambda _: False):
            for p, hypotheses in done.items():
                rows[p].tokens = list(hypotheses[0].tokens)
    assert [row[: row.index(7) + 1] if 7 in row else row for row in expected] == [row.tokens for row in rows]


def test_beam_scores_are_normalised_log_probabilities(pair: tuple[Any, Transformer]) -> None:
    theirs, ours = pair
    runner = CachedRunner(ours, VOCABULARY)
    first = chosen_logits(runner.prefill(PROMPTS[:1], NEW))
    options = GenerateOptions(num_beams=3, length_penalty=0.7)
    *_, done = beam_search(runner, PROMPTS[:1], first, [NEW], options, None, lambda tokens: False)
    for hypothesis in done[0]:
        row = torch.tensor([PROMPTS[0] + list(hypothesis.tokens)])
        logprobs = theirs(row).logits[0].detach().log_softmax(-1)
        total = sum(logprobs[len(PROMPTS[0]) - 1 + k, t] for k, t in enumerate(hypothesis.tokens))
        assert hypothesis.score == pytest.approx(float(total) / NEW**0.7, abs=1e-4)
