"""`mainspring spell train`: lexicons, channels, pairs of words, the ranker, each kept as soon as made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mainspring.errors import DataError
from mainspring.products.spelling import parameters as learnt
from mainspring.products.spelling.channel import Channel
from mainspring.products.spelling.engine import Asked, LanguageEngine, engine_of
from mainspring.products.spelling.languages import LANGUAGES, known_language
from mainspring.products.spelling.letters import normal_word
from mainspring.products.spelling.lexicon import Lexicon, Lexicons, pack
from mainspring.products.spelling.noise import misspell
from mainspring.products.spelling.rank import FEATURES, UNKNOWN, Weights
from mainspring.products.spelling.speller import LEXICONS, PARAMETERS
from mainspring.products.spelling.tokens import tokenize
from mainspring.products.spelling.training import fit_channel, fit_rank, word_pairs
from mainspring.products.spelling.training.calibrate import Calibration, calibrate
from mainspring.products.spelling.training.lexicons import build as build_lexicon
from mainspring.products.spelling.training.lexicons import lists_of
from mainspring.products.spelling.training.pairs import FREE, Pair, half, read_pairs
from mainspring.products.spelling.training.recipe import SpellingRecipe, load_recipe
from mainspring.products.spelling.training.texts import named, of_half
from mainspring.train.files import replace_file

Tell = Callable[[str, int, int, float | None], None]
"""Told: which part, how much of it is done, of how much, seconds that remain."""
Pairs = Mapping[tuple[str, str], list[Pair]]

PARTS = "parts"
"""Folder of what is kept on the way."""
_LEAST_PAIRS = 150
_MOST_OF_SET = 1500
_MOST_OF_LIST = 800
_SHARED_OF_FAMILY = 4000
_MOST_OF_FAMILY = 9000


def build(data: Path, to: Path, *, recipe: str = "spelling", tell: Tell) -> dict[str, int]:
    """Make what is not there yet; the files made, with their sizes.

    Args:
        data: folder of test data; what of it is absent is left out.
        to: where to write.
        recipe: name or file.
        tell: takes the progress.

    Raises:
        DataError: `data` has no misspellings.
        ConfigError: the recipe is wrong.
        MissingExtraError: the packages of frequency lists are not installed.
    """
    settings = load_recipe(recipe)
    pairs = read_pairs(data / "spelling")
    if not pairs:
        raise DataError(f"{data / 'spelling'}: holds no misspellings; see docs/guide/spelling.md")
    to.mkdir(parents=True, exist_ok=True)
    _lexicons(to, data, pairs, settings.languages or tuple(LANGUAGES), tell)
    lexicons = Lexicons(to / LEXICONS)
    if not (to / PARAMETERS).exists():
        _parameters(to, data, pairs, lexicons, settings, tell)
    return {name: (to / name).stat().st_size for name in (LEXICONS, PARAMETERS) if (to / name).exists()}


def _parameters(
    to: Path, data: Path, pairs: Pairs, lexicons: Lexicons, settings: SpellingRecipe, tell: Tell
) -> None:
    """Channels, pairs of words and the ranker's weights."""
    early = to / PARTS / "channels.safetensors"
    none = Weights(np.zeros(len(FEATURES)), np.zeros(len(UNKNOWN)))
    if not early.exists():
        bigrams = {"en": word_pairs.english(data)} if "en" in lexicons.index else {}
        first = learnt.Parameters(fit_channels(pairs, tell), none, bigrams)
        _whole(early, lambda path: learnt.save(first, path, {}))
    parameters = learnt.load(early)
    weights, metrics = fit_weights(lexicons, parameters, data, pairs, to / PARTS, tell)
    parameters = parameters._replace(weights=weights)
    cautions = _cautions(lexicons, parameters, data, pairs, to / PARTS, tell)
    facts = {
        "recipe": settings.model_dump_json(),
        "metrics": json.dumps(metrics),
        "calibration": json.dumps({tag: one._asdict() for tag, one in cautions.items()}),
    }
    caution = {tag: one.caution for tag, one in cautions.items() if one.caution}
    _whole(to / PARAMETERS, lambda path: learnt.save(parameters._replace(caution=caution), path, facts))


def _cautions(
    lexicons: Lexicons, parameters: learnt.Parameters, data: Path, pairs: Pairs, keep: Path, tell: Tell
) -> dict[str, Calibration]:
    """How cautious each language without a frequency list has to be, kept on the way; the others know enough
    words."""
    held = keep / "caution.json"
    found: dict[str, Calibration] = {}
    if held.exists():
        kept = json.loads(held.read_text(encoding="utf-8"))
        found = {tag: Calibration(**one) for tag, one in kept.items()}
    tags = [tag for tag, facts in lexicons.index.items() if "wordfreq" not in facts["sources"]]
    begun, made = time.monotonic(), 0
    for number, tag in enumerate(tags):
        if tag not in found:
            language = LANGUAGES[tag]
            found[tag] = calibrate(language, data, lists_of(language, data, pairs), parameters)
            written = json.dumps({t: one._asdict() for t, one in found.items()}).encode()
            replace_file(held, written)
            made += 1
        left = (time.monotonic() - begun) / made * (len(tags) - number - 1) if made else None
        tell("calibration", number + 1, len(tags), left)
    return found


def _lexicons(to: Path, data: Path, pairs: Pairs, tags: tuple[str, ...], tell: Tell) -> None:
    if (to / LEXICONS).exists():
        return
    parts = to / PARTS
    parts.mkdir(exist_ok=True)
    begun, made = time.monotonic(), 0
    for number, tag in enumerate(tags):
        if not (parts / f"{tag}.bin").exists():
            language = known_language(tag)
            lists = lists_of(language, data, pairs)
            lexicon = build_lexicon(language, of_half(language, data, 0), lists, named(language, data))
            _whole(parts / f"{tag}.bin", partial(pack, {tag: lexicon}))
            made += 1
        left = (time.monotonic() - begun) / made * (len(tags) - number - 1) if made else None
        tell("lexicons", number + 1, len(tags), left)
    every: dict[str, Lexicon] = {}
    for tag in tags:
        lexicon = Lexicons(parts / f"{tag}.bin").load(tag)
        if len(lexicon) >= 100:
            facts = {k: lexicon.facts[k] for k in ("sources", "unknown", "pairs")}
            every[tag] = Lexicon(lexicon.words, lexicon.costs, facts)
    _whole(to / LEXICONS, partial(pack, every))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that is whole or not there, wherever the command is interrupted."""
    fresh = path.with_stem(f"{path.stem}.new")
    write(fresh)
    fresh.replace(path)


def fit_channels(pairs: Pairs, tell: Tell) -> dict[str, Channel]:
    """A channel for each family of which enough misspellings are known, and one that all share."""
    by_family: dict[str, list[tuple[str, str, float]]] = {}
    for (tag, name), rows in pairs.items():
        if name in FREE:
            weight = min(1.0, _MOST_OF_LIST / max(1, len(rows))) if name == "autocorrect" else 1.0
            by_family.setdefault(known_language(tag).family, []).extend(
                (p.wrong, p.right, weight)
                for p in rows
                if half(p.right) == 0 and " " not in p.wrong + p.right
            )
    rng = np.random.default_rng(0)
    for family, taught in by_family.items():
        if len(taught) > _MOST_OF_FAMILY:
            by_family[family] = [taught[i] for i in rng.permutation(len(taught))[:_MOST_OF_FAMILY].tolist()]
    tell("channels", 0, 1 + len(by_family), None)
    shared = fit_channel.fit(
        (a, b, w * min(1.0, _SHARED_OF_FAMILY / len(taught)))
        for taught in by_family.values()
        for a, b, w in taught
    )
    channels = {learnt.SHARED: shared}
    for number, (family, taught) in enumerate(by_family.items()):
        if len(taught) >= _LEAST_PAIRS:
            channels[family] = fit_channel.fit(taught, shared)
        tell("channels", 2 + number, 1 + len(by_family), None)
    return channels


def fit_weights(
    lexicons: Lexicons, parameters: learnt.Parameters, data: Path, pairs: Pairs, keep: Path, tell: Tell
) -> tuple[Weights, dict[str, float]]:
    """The ranker's weights from the learning halves: real misspellings, noise on text, and right words that
    lexicons lack."""
    parts: list[fit_rank.Examples] = []
    tags = [tag for tag, facts in lexicons.index.items() if "wordfreq" in facts["sources"] or facts["pairs"]]
    begun, made = time.monotonic(), 0
    for number, tag in enumerate(tags):
        held = keep / f"rank-{tag}.npz"
        if not held.exists():
            made_of = _of_language(lexicons, parameters, tag, data, pairs)
            _whole(held, partial(fit_rank.save, made_of))
            made += 1
        parts.append(fit_rank.load(held))
        left = (time.monotonic() - begun) / made * (len(tags) - number - 1) if made else None
        tell("ranker", number + 1, len(tags), left)
    examples = fit_rank.balanced(fit_rank.joined(parts))
    weights = fit_rank.fit(examples)
    return weights, {"strings": float(len(examples.target)), "misspelt": float((examples.target >= 0).sum())}


def _of_language(
    lexicons: Lexicons, parameters: learnt.Parameters, tag: str, data: Path, pairs: Pairs
) -> fit_rank.Examples:
    engine = engine_of(lexicons.load(known_language(tag).tag), parameters, tag)
    parts = [fit_rank.examples(engine, [], [], 1.0)]
    for (other, name), rows in pairs.items():
        if known_language(other).tag == tag and name != "codespell":
            kept = [
                p for p in rows if half(p.right) == 0 and " " not in p.wrong and not engine.known(p.wrong)
            ]
            parts += _examples(engine, [(Asked(p.wrong), p.right) for p in kept[:_MOST_OF_SET]], 1.0)
    if "wordfreq" in engine.lexicon.facts["sources"]:  # other lexicons know all of the learning half's words
        parts += _from_text(engine, data)
    return fit_rank.joined(parts)


def _examples(
    engine: LanguageEngine, rows: list[tuple[Asked, str | None]], weight: float
) -> list[fit_rank.Examples]:
    if not rows:
        return []
    return [fit_rank.examples(engine, [a for a, _ in rows], [m for _, m in rows], weight)]


def _from_text(
    engine: LanguageEngine, data: Path, sentences: int = 150, rate: float = 0.1
) -> list[fit_rank.Examples]:
    """Words of text with noise on some, and those that the lexicon lacks as they are."""
    rng = np.random.default_rng(1)
    spoilt: list[tuple[Asked, str | None]] = []
    unknown: list[tuple[Asked, str | None]] = []
    for sentence in of_half(engine.language, data, 0)[:sentences]:
        words = [normal_word(t.text) for t in tokenize(sentence, nouns_capitalised=True) if t.kind == "word"]
        beside = words if engine.bigrams is not None else [None] * len(words)
        for word, left, right in zip(words, [None, *beside], [*beside[1:], None], strict=False):
            if not engine.known(word):
                unknown.append((Asked(word, left, right), None))
            elif len(word) > 2 and rng.random() < rate:
                wrong = misspell(word, engine.language, rng)
                if not engine.known(wrong) and " " not in wrong:
                    spoilt.append((Asked(wrong, left, right), word))
    return _examples(engine, spoilt[:200], 0.5) + _examples(engine, unknown[:200], 0.5)
