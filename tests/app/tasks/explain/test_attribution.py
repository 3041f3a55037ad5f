"""What each word adds to a score, where the score of every set of words is known."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from app.tasks.explain import attribution
from app.tasks.explain.attribution import Attributing, Attribution, Coalitions, Numbers, least_runs, occlusion, shapley

Game = Callable[[Coalitions], Numbers]
"""The scores of sets of words, float64[runs] for bool[runs, words]."""
ROUNDING = 1e-12
"""Sums of some thousand numbers of about 1, each rounded to 16 digits."""


def linear(weights: list[float], constant: float = 0.5) -> Game:
    return lambda are_there: constant + are_there @ np.array(weights)


def curved(words: int) -> Game:
    """A game in which words change what others add, as in a model with a sigmoid at its end."""
    random = np.random.default_rng(words)
    weights, pairs = random.normal(size=words), random.normal(size=(words, words)) / words
    return lambda are_there: (
        1 / (1 + np.exp(-(are_there @ weights + np.einsum("ri,ij,rj->r", are_there, pairs, are_there))))
    )


def play(method: Attributing, game: Game, rounds: float = math.inf) -> tuple[Attribution, list[Coalitions]]:
    """Run a method on a game, as many rounds as there is time for, and return what it asked, too."""
    asked = [next(method)]
    try:
        while True:
            asked.append(method.send(game(asked[-1]) if len(asked) <= rounds else None))
    except StopIteration as end:
        return end.value, asked


def sampled(
    words: int, game: Game, *, max_runs: int = 10_000, standard_error: float = 1e-9, seed: int = 0
) -> Attribution:
    method = shapley(words, max_runs=max_runs, standard_error=standard_error, seed=seed)
    return play(method, game)[0]


def by_definition(words: int, game: Game) -> Numbers:
    """What each word adds, on average over every order."""
    added = []
    for order in itertools.permutations(range(words)):
        sets = np.array([[word in order[:size] for word in range(words)] for size in range(words + 1)])
        added.append(np.diff(game(sets))[np.argsort(order)])
    return np.mean(added, axis=0)


def exact(words: int, game: Game, monkeypatch: pytest.MonkeyPatch) -> Numbers:
    """The Shapley values by all subsets, also of more words than are read so."""
    with monkeypatch.context() as patched:
        patched.setattr(attribution, "ROUND_RUNS", 2**words)
        found = sampled(words, game, max_runs=2**words)
    assert found.stopped == "complete"
    return found.contributions


def test_occlusion_is_what_the_score_loses_without_each_word() -> None:
    game = curved(6)
    found, [asked] = play(occlusion(6), game)
    everything = np.ones((1, 6), np.bool_)
    assert found.score == game(everything)[0]
    assert found.baseline_score == game(~everything)[0]
    for word in range(6):
        without = everything.copy()
        without[0, word] = False
        assert found.contributions[word] == pytest.approx(found.score - game(without)[0], abs=ROUNDING)
    assert (found.runs, len(asked), found.stopped, found.standard_errors) == (8, 8, "complete", None)


@pytest.mark.parametrize("words", [1, 2, 3, 5, 8, 9, 20])
def test_on_a_linear_game_both_methods_return_its_weights(words: int) -> None:
    weights = np.random.default_rng(words).normal(size=words)
    for found in (play(occlusion(words), linear(weights.tolist()))[0], sampled(words, linear(weights.tolist()))):
        np.testing.assert_allclose(found.contributions, weights, atol=ROUNDING)
        assert found.baseline_score == 0.5


@pytest.mark.parametrize("words", [1, 2, 3, 6])
def test_few_words_get_the_shapley_values_of_the_definition(words: int) -> None:
    found = sampled(words, curved(words))
    np.testing.assert_allclose(found.contributions, by_definition(words, curved(words)), atol=ROUNDING)
    assert found.standard_errors is not None
    assert (found.standard_errors.tolist(), found.runs, found.stopped) == ([0.0] * words, 2**words, "complete")


@pytest.mark.parametrize("words", [2, 7, 9, 13, 40])
@pytest.mark.parametrize("seed", [0, 7])
def test_shapley_values_add_up_to_the_score_minus_the_baseline(words: int, seed: int) -> None:
    found = sampled(words, curved(words), max_runs=2000, seed=seed)
    assert found.contributions.sum() == pytest.approx(found.score - found.baseline_score, abs=ROUNDING)


def test_sampled_values_are_near_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    found = sampled(11, curved(11), max_runs=100_000, standard_error=2e-3)
    assert found.stopped == "standard_error"
    errors = found.contributions - exact(11, curved(11), monkeypatch)
    # Eleven of a normal distribution are beyond four standard deviations once in 1,400 times, and the seed is fixed.
    assert np.abs(errors).max() < 4 * 2e-3


def test_standard_errors_are_as_large_as_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    right = exact(10, curved(10), monkeypatch)
    ratios = []
    for seed in range(40):
        found = sampled(10, curved(10), max_runs=400, seed=seed)
        assert found.standard_errors is not None
        ratios.append((found.contributions - right) / found.standard_errors)
    # Of a t distribution with 21 degrees of freedom, 0.94 are within two; 400 numbers vary by 0.012.
    assert np.mean(np.abs(ratios) < 2) == pytest.approx(0.94, abs=0.04)


def test_it_stops_when_every_standard_error_is_small_enough() -> None:
    loose, strict = (sampled(20, curved(20), standard_error=asked) for asked in (0.05, 0.01))
    assert loose.stopped == strict.stopped == "standard_error"
    assert loose.standard_errors is not None
    assert strict.standard_errors is not None
    assert loose.standard_errors.max() <= 0.05
    assert strict.standard_errors.max() <= 0.01
    assert loose.runs < strict.runs


@pytest.mark.parametrize("max_runs", [38, 39, 75, 76, 200, 1001])
def test_it_never_runs_more_than_it_may(max_runs: int) -> None:
    method = shapley(19, max_runs=max_runs, standard_error=1e-9, seed=0)
    found, asked = play(method, curved(19))
    assert sum(map(len, asked)) == found.runs <= max_runs
    assert found.runs > max_runs - 36  # or another pair of orders would fit
    assert found.stopped == "max_runs"


def test_the_fewest_runs_give_an_answer_without_standard_errors() -> None:
    found = sampled(19, curved(19), max_runs=least_runs(19))
    assert found.standard_errors is None
    assert found.contributions.sum() == pytest.approx(found.score - found.baseline_score, abs=ROUNDING)


def test_when_time_is_over_it_answers_with_what_it_has() -> None:
    method = shapley(20, max_runs=10_000, standard_error=1e-9, seed=0)
    found, asked = play(method, curved(20), rounds=2)
    assert found.stopped == "time"
    assert found.runs == len(asked[0]) + len(asked[1])
    assert found.contributions.sum() == pytest.approx(found.score - found.baseline_score, abs=ROUNDING)


def test_a_seed_gives_the_same_orders_and_another_one_others() -> None:
    first, again, other = (sampled(20, curved(20), max_runs=400, seed=seed) for seed in (3, 3, 4))
    assert first.contributions.tolist() == again.contributions.tolist()
    assert first.contributions.tolist() != other.contributions.tolist()


def test_a_round_has_all_words_first_and_none_of_them_second() -> None:
    for method in (
        occlusion(12),
        shapley(12, max_runs=500, standard_error=1.0, seed=0),
        shapley(3, max_runs=8, standard_error=1.0, seed=0),
    ):
        first = next(method)
        assert first[0].all()
        assert not first[1].any()
        assert first.dtype == np.bool_


def test_each_order_comes_with_its_reverse() -> None:
    coalitions = next(shapley(12, max_runs=500, standard_error=1.0, seed=0))[2:]
    forward, backward = coalitions[:11], coalitions[11:22]
    assert forward.sum(axis=1).tolist() == list(range(1, 12))
    assert (backward == ~forward[::-1]).all()
