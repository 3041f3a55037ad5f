"""The largest batches run first, then every shape."""

from collections.abc import Sequence

import numpy as np
import pytest

from app.bundle.files import Bundle
from app.bundle.graph_inputs import pack
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.warmup import run_every_shape
from app.errors import OutOfDeviceMemory
from app.runtime.runner import OrtRunner


@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_the_largest_batches_run_first_then_every_shape(bundle: Bundle, runner: OrtRunner, budget: int) -> None:
    shapes: list[list[int]] = []
    trimmed: list[int] = []

    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        shapes.append([len(sequence) for sequence in batch])
        return runner.run(batch)

    def trim(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        trimmed.append(len(shapes))
        return runner.trim(batch)

    run_every_shape(bundle, run, trim, budget)
    longest = bundle.manifest.max_length
    assert trimmed == [0], "what the search took is given back before the largest batch takes its own"
    assert shapes[0] == shapes[1] == [longest] * max(1, budget // longest)
    assert shapes[2] == shapes[3]
    assert max(map(sum, shapes)) <= max(budget, longest)
    assert {8, longest} <= {shape[0] for shape in shapes if len(shape) == 1} or budget < longest


@pytest.mark.parametrize("budget", [1, 2, 40, 65, 100, 130, 1000, 3000])
def test_no_batch_is_larger_than_both_of_the_first(bundle: Bundle, budget: int) -> None:
    """In tokens, in sequences or in the padded batch, whatever the batcher makes of a budget."""
    longest = bundle.manifest.max_length
    shapes: list[list[int]] = []

    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        shapes.append([len(sequence) for sequence in batch])
        return []

    run_every_shape(bundle, run, lambda _: [], budget)

    def sizes(lengths: list[int]) -> tuple[int, ...]:
        zeros = [np.zeros(length, np.int32) for length in lengths]
        feeds = pack([TokenSequence(one, one) for one in zeros], target="cuda")
        return tuple(feeds[name].size for name in ("input_ids", "cu_seqlens", "token_offset"))

    first = [sizes(shape) for shape in (shapes[0], shapes[2])]
    largest = [max(one) for one in zip(*first, strict=True)]
    for long in range(2, longest + 1):
        for other in {2, 3, 7, long} & set(range(2, long + 1)):
            tokens, sequences, padded = sizes([long] + [other] * ((budget - long) // other))
            # A budget that its sequences do not fill leaves room for less than one, of the longest or the shortest.
            assert tokens <= largest[0] + longest
            assert sequences <= largest[1] + longest // 2
            assert padded <= largest[2] + 2 * longest


def test_a_widest_batch_that_does_not_fit_is_logged(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []

    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        if len(batch) > 1000:
            raise OutOfDeviceMemory("Failed to allocate memory")
        ran.append(len(batch))
        return []

    run_every_shape(bundle, run, lambda _: [], 4096)
    longest = bundle.manifest.max_length
    [told] = caplog.records
    assert f"a text of {longest} tokens and {(4096 - longest) // 2} of the shortest" in told.getMessage()
    assert ran[-1] == 8, "the small shapes run all the same"


def test_a_fullest_batch_that_does_not_fit_stops_the_start(bundle: Bundle) -> None:
    def run(batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        if len(batch) > 1:
            raise OutOfDeviceMemory("Failed to allocate memory")
        return []

    with pytest.raises(OutOfDeviceMemory):
        run_every_shape(bundle, run, lambda _: [], 4096)
