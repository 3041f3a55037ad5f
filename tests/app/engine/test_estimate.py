"""How long what waits will take."""

import pytest

from app.engine.estimate import MOST_OF_AVERAGE, SMOOTHING, Estimate


def gpu(tokens: int) -> float:
    """A device that needs 3 ms a batch whatever is in it."""
    return 0.003 + 0.5e-6 * tokens


def measured(budget_tokens: int, lanes: int = 1) -> Estimate:
    pace = Estimate(budget_tokens, lanes)
    pace.expect([(tokens, gpu(tokens)) for tokens in (4, 128, 1024, 8192)])
    return pace


def test_nothing_is_known_before_the_first_batch() -> None:
    pace = Estimate(100)
    assert pace.seconds(1000) == 0
    pace.learn(10, 2.0)
    assert pace.seconds(10) == 2
    assert pace.seconds(50) == pytest.approx(10)
    assert pace.seconds(250) == pytest.approx(50)


def test_unmeasured_sizes_are_interpolated() -> None:
    pace = measured(8192)
    for tokens in (4, 60, 128, 500, 8192):
        assert pace.seconds(tokens) == pytest.approx(gpu(tokens))
    assert pace.seconds(3 * 8192 + 500) == pytest.approx(3 * gpu(8192) + gpu(500))


def test_single_short_texts_do_not_change_the_estimate_of_full_batches() -> None:
    pace = measured(8192)
    before = pace.seconds(100_000)
    for _ in range(1000):
        pace.learn(4, gpu(4))
    assert pace.seconds(100_000) == pytest.approx(before)


def test_a_slower_device_shows_after_some_batches() -> None:
    pace = measured(8192)
    for _ in range(30):
        pace.learn(500, 2 * gpu(500))
    assert pace.seconds(8192) == pytest.approx(2 * gpu(8192), rel=0.01)


def test_one_stall_barely_changes_the_estimate() -> None:
    pace = measured(8192)
    pace.learn(500, 100.0)
    assert pace.seconds(500) == pytest.approx(gpu(500) * (1 + SMOOTHING * (MOST_OF_AVERAGE - 1)))


def test_lanes_divide_the_time() -> None:
    assert measured(1024, lanes=2).seconds(10_000) == pytest.approx(measured(1024).seconds(10_000) / 2)


@pytest.mark.parametrize("tokens", [1, 5000, 8192, 20_000])
def test_the_upper_bound_is_never_too_low(tokens: int) -> None:
    pace = measured(8192)
    pace.learn(100, 3 * gpu(100))
    assert 3 * pace.seconds(tokens) <= pace.at_most(3 * tokens)


def test_no_batch_is_faster_than_a_smaller_one() -> None:
    """Measured on a machine that was busy for the first of the two only."""
    pace = Estimate(64)
    pace.expect([(16, 0.5), (64, 0.3)])
    assert pace.seconds(64) == pace.seconds(16) == 0.5
    assert pace.seconds(16) <= pace.at_most(16)


def test_no_tokens_take_no_time() -> None:
    assert measured(1024).seconds(0) == 0
