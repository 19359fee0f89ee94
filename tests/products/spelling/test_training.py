"""Making a speller: readers of misspellings, cleaning of lists, the ranker's fit."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from mainspring.errors import ConfigError, DataError
from mainspring.products.spelling import LANGUAGES
from mainspring.products.spelling.noise import NOISES, misspell
from mainspring.products.spelling.rank import FEATURES, UNKNOWN, probabilities
from mainspring.products.spelling.training import fit_rank
from mainspring.products.spelling.training.lexicons import clean
from mainspring.products.spelling.training.pairs import Pair, half, mitton, read_pairs
from mainspring.products.spelling.training.recipe import load_recipe


def test_sets_are_read_as_they_are_published(tmp_path: Path) -> None:
    (tmp_path / "en/mitton").mkdir(parents=True)
    (tmp_path / "en/symspell").mkdir()
    (tmp_path / "en/codespell").mkdir()
    (tmp_path / "multilingual/libreoffice").mkdir(parents=True)
    holbrook = tmp_path / "en/mitton/holbrook-missp.dat.gz"
    holbrook.write_bytes(gzip.compress(b"$?\nunclear 1\n$a lot\nalot 3\n$receive\nrecieve 2\nreceive 1\n"))
    (tmp_path / "en/symspell/noisy_query_en_1000.txt").write_text("te the 1\nthe the 0\n")
    (tmp_path / "en/codespell/dictionary.txt.gz").write_bytes(
        gzip.compress(b"abandonned->abandoned, other\n")
    )
    rows = "Strase\tStraße\n".encode()
    (tmp_path / "multilingual/libreoffice/de.tsv.gz").write_bytes(gzip.compress(rows))
    found = read_pairs(tmp_path)
    assert found["en", "holbrook"] == [Pair("alot", "a lot", 3), Pair("recieve", "receive", 2)]
    assert found["en", "symspell"] == [Pair("te", "the")]
    assert found["en", "codespell"] == [Pair("abandonned", "abandoned")]
    assert found["de", "autocorrect"] == [Pair("strase", "straße")]
    assert len(list(mitton(holbrook))) == 3
    with pytest.raises(DataError, match="no folder"):
        read_pairs(tmp_path / "none")


def test_halves_are_about_even_and_go_by_the_word_meant() -> None:
    words = [f"word{i}" for i in range(2000)]
    assert 900 < sum(half(w) for w in words) < 1100
    assert half("Straße") == half("straße")


def test_lists_lose_what_is_likelier_a_slip() -> None:
    counts = {
        "receive": 1000.0, "recieve": 1.0, "être": 500.0, "etre": 10.0, "esta": 300.0, "está": 400.0,
        "letter": 900.0, "leter": 1.0, "form": 50.0, "from": 40000.0,
    }  # fmt: skip
    kept = clean(counts, {"wrold"})
    assert set(counts) - set(kept) == {"recieve", "etre", "leter"}
    assert "recieve" in clean(counts, set(), {"recieve"})


def test_every_noise_changes_words_and_keeps_them_single() -> None:
    rng = np.random.default_rng(0)
    for name, noise in NOISES.items():
        made = [noise("häufiger", LANGUAGES["de"], rng) for _ in range(50)]
        assert any(m != "häufiger" for m in made), name
        assert all(m and " " not in m and abs(len(m) - 8) <= 1 for m in made), name
    for tag, word in (("ru", "слово"), ("hi", "हिन्दी"), ("ka", "სიტყვა"), ("am", "ቃላት"), ("en", "a")):
        assert isinstance(misspell(word, LANGUAGES[tag], rng), str)


def toy_examples(count: int = 400) -> fit_rank.Examples:
    """Two candidates each, of which the cheaper is right; every fourth string is right itself."""
    rng = np.random.default_rng(2)
    features = np.zeros((2 * count, len(FEATURES)))
    features[:, 0] = rng.normal(-5, 1, 2 * count)
    unknown = np.ones((count, len(UNKNOWN)))
    unknown[:, 1:] = 0
    unknown[:, 1] = np.where(np.arange(count) % 4 == 0, 3.0, -3.0) + rng.normal(0, 1, count)
    better = 2 * np.arange(count) + (features[1::2, 0] > features[::2, 0])
    target = np.where(np.arange(count) % 4 == 0, -1, better)
    return fit_rank.Examples(np.repeat(np.arange(count), 2), features, unknown, target, np.ones(count))


def test_the_fit_is_a_maximum_and_chooses_well(tmp_path: Path) -> None:
    data = toy_examples()
    fit_rank.save(data, tmp_path / "held.npz")
    data = fit_rank.load(tmp_path / "held.npz")
    weights = fit_rank.fit(data)

    def mean(w: object) -> float:
        chance, stays = probabilities(w, data.rows, data.features, data.unknown)  # type: ignore[arg-type]
        chosen = np.where(data.target >= 0, chance[np.maximum(data.target, 0)], stays)
        return float(np.log(chosen).mean())

    best = mean(weights)
    for column in (0, 1):
        for step in (-0.05, 0.05):
            moved = weights.candidate.copy()
            moved[column] += step
            assert mean(weights._replace(candidate=moved)) <= best + 1e-4
    chance, stays = probabilities(weights, data.rows, data.features, data.unknown)
    total = stays + np.bincount(data.rows, weights=chance)
    np.testing.assert_allclose(total, 1.0)
    assert ((stays > 0.5) == (data.target < 0)).mean() > 0.9
    even = fit_rank.balanced(data)
    assert np.isclose(even.weight[data.target < 0].sum(), even.weight[data.target >= 0].sum())


def test_recipes_are_found_by_name_and_wrong_ones_told(tmp_path: Path) -> None:
    assert load_recipe("spelling").languages == ()
    with pytest.raises(ConfigError, match="did you mean 'spelling'"):
        load_recipe("speling")
    (tmp_path / "own.toml").write_text("languages = 2\n")
    with pytest.raises(ConfigError, match="languages"):
        load_recipe(str(tmp_path / "own.toml"))
