"""How much each of some words adds to a score, by scores without some of them. Knows neither model nor text.

Both methods are generators: each yields which words are there, gets the scores, and returns an attribution.
"""

from collections.abc import Generator
from dataclasses import dataclass
from math import comb
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Coalitions = npt.NDArray[np.bool_]
"""bool[runs, words]: which words are there in each run."""
Numbers = npt.NDArray[np.float64]
Stopped = Literal["complete", "standard_error", "max_runs", "time"]
"""Why no more runs were made: there are no others, the numbers are exact enough, or runs or time are spent."""
ROUND_RUNS: Final = 256
"""Runs of a round of `shapley`, if that is a pair of orders or more. All subsets of words are run if they are so few."""
ENOUGH: Final = 0.1
"""The share of the largest contribution that standard errors may be, unless a caller asks for another: scores may be
probabilities near 0, or logits."""
LEAST_PAIRS: Final = 5
"""Pairs of orders of which a standard error is trusted."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The score with all words, that with none, and what each word adds.

    `standard_errors` are None where the contributions are no samples, or too few to tell.
    """

    score: float
    baseline_score: float
    contributions: Numbers  # float64[words]
    standard_errors: Numbers | None  # float64[words]
    runs: int
    stopped: Stopped


Attributing = Generator[Coalitions, Numbers | None, Attribution]
"""Yields first all words and none of them, maybe among others. Only a round after the first one may get None: it was not run."""


def occlusion(words: int) -> Attributing:
    """Return what the score loses without each word, the others being there.

    Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, of words instead of pixels.
    """
    scores = yield np.vstack([_all_and_none(words), ~np.eye(words, dtype=np.bool_)])
    assert scores is not None
    return Attribution(
        float(scores[0]), float(scores[1]), scores[0] - scores[2:], None, len(scores), stopped="complete"
    )


def shapley(words: int, *, max_runs: int, standard_error: float | None, seed: int) -> Attributing:
    """Return the Shapley values of the words: what each adds, on average over all orders in which they could come.

    If all subsets are few, they are run, and the values are exact. Else orders are sampled, each with its reverse, which cancels
    much of the noise: the contributions of an order add up to the score of all words minus that of none, so their averages do.

    Castro, Gómez and Tejada, "Polynomial calculation of the Shapley value based on sampling", 2009; Mitchell et al., "Sampling
    Permutations for Shapley Value Estimation", 2022, for the reversed orders.

    Args:
        words: How many there are, one or more.
        max_runs: Most runs; `least_runs` or more.
        standard_error: That of every word is to be this or less; None for `ENOUGH` of the largest contribution.
        seed: Of the orders.
    """
    if 2**words <= min(max_runs, ROUND_RUNS):
        return (yield from _all_subsets(words))
    random = np.random.default_rng(seed)
    runs_a_pair = 2 * (words - 1)
    pairs_a_round = max(1, ROUND_RUNS // runs_a_pair)
    edges: Numbers | None = None
    samples = np.empty((0, words))
    runs = 2
    stopped: Stopped = "max_runs"
    while pairs := min(pairs_a_round, (max_runs - runs) // runs_a_pair):
        orders = random.permuted(np.tile(np.arange(words), (pairs, 1)), axis=1)
        orders = np.stack([orders, orders[:, ::-1]], axis=1).reshape(-1, words)
        coalitions = _along(orders)
        scores = yield coalitions if edges is not None else np.vstack([_all_and_none(words), coalitions])
        if scores is None:
            stopped = "time"
            break
        if edges is None:
            edges, scores = scores[:2], scores[2:]
        samples = np.vstack([samples, _pair_averages(orders, scores.reshape(-1, words - 1), edges)])
        runs += len(coalitions)
        enough = ENOUGH * np.abs(samples.mean(axis=0)).max() if standard_error is None else standard_error
        if len(samples) >= LEAST_PAIRS and _standard_errors(samples).max() <= enough:
            stopped = "standard_error"
            break
    assert edges is not None
    errors = _standard_errors(samples) if len(samples) > 1 else None
    return Attribution(float(edges[0]), float(edges[1]), samples.mean(axis=0), errors, runs, stopped)


def least_runs(words: int) -> int:
    """Return the fewest runs in which `shapley` has an answer: all words, none of them, and a pair of orders."""
    return 2 + 2 * (words - 1)


def _all_and_none(words: int) -> Coalitions:
    return np.array([[True], [False]]).repeat(words, axis=1)


def _all_subsets(words: int) -> Attributing:
    """Return the Shapley values by their definition."""
    numbers = np.arange(2**words)  # a subset's bits are its words
    order = np.roll(numbers, 1)  # all words, none, and the others
    subsets = order[:, None] >> np.arange(words) & 1 == 1
    scores = yield subsets
    assert scores is not None
    by_number, sizes = np.roll(scores, -1), np.roll(subsets.sum(axis=1), -1)
    contributions = np.empty(words)
    for word in range(words):
        without = numbers[numbers >> word & 1 == 0]
        weights = np.array([1 / (words * comb(words - 1, size)) for size in sizes[without].tolist()])
        contributions[word] = (weights * (by_number[without | 1 << word] - by_number[without])).sum()
    return Attribution(
        float(scores[0]), float(scores[1]), contributions, np.zeros(words), len(scores), stopped="complete"
    )


def _along(orders: npt.NDArray[np.int64]) -> Coalitions:
    """Return the words that are there after the first word of each order, after the second, and so on but for the last."""
    places = np.argsort(orders, axis=1)
    steps = np.arange(1, orders.shape[1])
    return (places[:, None, :] < steps[:, None]).reshape(-1, orders.shape[1])


def _pair_averages(orders: npt.NDArray[np.int64], scores: Numbers, edges: Numbers) -> Numbers:
    """Return what each word adds in each order and its reverse, on average, float64[pairs, words]."""
    ends = np.broadcast_to(edges, (len(orders), 2))
    added = np.diff(np.hstack([ends[:, 1:], scores, ends[:, :1]]), axis=1)
    by_word = np.empty_like(added)
    np.put_along_axis(by_word, orders, added, axis=1)
    pairs: Numbers = by_word.reshape(-1, 2, orders.shape[1]).mean(axis=1)
    return pairs


def _standard_errors(samples: Numbers) -> Numbers:
    errors: Numbers = samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
    return errors
