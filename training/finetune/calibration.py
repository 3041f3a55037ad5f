"""Whether a score of 0.8 is right in 80% of the cases."""

from typing import Any, Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import log_loss

_BINS: Final = 15
_COLDEST, _HOTTEST = 0.25, 10.0
"""Where all rows are right, ever colder would be ever likelier."""


def temperature(logits: Any, targets: Any) -> float:
    """Return the number that the logits must be divided by for the likeliest labels (Guo et al., 2017).

    Args:
        logits: [rows, labels]
        targets: The number of the label of each row.
    """
    numbers = np.arange(logits.shape[-1])

    def loss(log_temperature: float) -> float:
        return log_loss(targets, np.exp(log_softmax(logits / np.exp(log_temperature), -1)), labels=numbers)

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded").x))


def expected_calibration_error(scores: Any, targets: Any) -> float:
    """Return by how much the best scores differ from the share that is right, on average over bins of equal width."""
    return float(sum(share * abs(score - right) for score, right, share in reliability(scores, targets)))


def reliability(scores: Any, targets: Any) -> list[tuple[float, float, float]]:
    """Return, for each bin of scores that has rows: the average score, the share that is right, and the share of the rows."""
    best, is_right = scores.max(-1), scores.argmax(-1) == targets
    bins = np.minimum((best * _BINS).astype(int), _BINS - 1)
    return [
        (float(best[inside].mean()), float(is_right[inside].mean()), float(inside.mean()))
        for inside in (bins == number for number in range(_BINS))
        if inside.any()
    ]
