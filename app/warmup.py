"""Hold a freshly loaded model to the answers of its source checkpoint, and find out how fast it is.

Runs in the engine's thread before the model serves anyone. Works on token ids, so an engine needs no tokenizer.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final, Protocol, TypeVar

import numpy as np

from app.bundle import Bundle, GoldenCase
from app.errors import BundleError, OutOfDeviceMemory
from app.messages import MaskScores, SequenceResult, TokenSequence

log = logging.getLogger(__name__)

Run = Callable[[Sequence[TokenSequence]], list[SequenceResult]]


class CpuRunner(Protocol):
    """A runner, as far as `open_with_few_threads` knows it."""

    @property
    def threads(self) -> int | None: ...

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]: ...


R = TypeVar("R", bound=CpuRunner)

# The same graph on another machine may use other kernels (AVX2 for AVX-512, another GPU), whose sums are rounded
# elsewhere: half a tolerance more than the export allowed itself.
TOLERANCE_FACTOR: Final = 1.5
GOOD_ENOUGH: Final = 0.95
FIRST_BUDGET_TOKENS: Final = 128
# A machine on which small batches take this long gains nothing from larger ones but longer waits.
SEARCH_FOR_S: Final = 0.3
SEARCH_DEVICE_FOR_S: Final = 5.0
"""Of a GPU, whose libraries load their kernels at the first batch of a size: that may take as long as all the rest."""
MEASURE_FOR_S: Final = 0.9
MOST_ROUNDS: Final = 10
# A text may take this many times as long on half of the threads, which then answer two at once. Threads that share a run wait for each other after every operator, and for all of them when the front
# end or a neighbour takes the core of one.
WORTH_HALVING: Final = 1.25
# A run that takes longer is long enough to be shared by all threads, and its model too large to be loaded just to see.
LONG_RUN_S: Final = 0.005
TIMED_RUNS: Final = 20
SHORTEST_TOKENS: Final = 2
"""Of a sequence: the special tokens around an empty text."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What warm-up measured: the budget to batch up to and how long its tokens take."""

    budget_tokens: int
    seconds_per_token: float


def open_with_few_threads(
    bundle: Bundle,
    open_runner: Callable[[int], R],
    *,
    cpus: int,
    clock: Callable[[], float] = time.perf_counter,
) -> R:
    """Return a runner of so few threads that a text is answered about as fast as by all of them.

    The cores that it leaves run other batches meanwhile.

    Args:
        bundle: Its golden case of the middle length is the text.
        open_runner: Makes a runner of so many threads.
        cpus: The cores there are.
        clock: Seconds.
    """
    runner = open_runner(cpus)
    if runner.threads is None or runner.threads == 1:
        return runner
    sequences = sorted(golden_sequences(bundle), key=len)
    text = sequences[len(sequences) // 2]

    def shortest_s(*runners: R) -> list[float]:
        """In turns, so that what else the machine does is in all of them."""
        rounds = [[_timed(one.run, [text], clock) for one in runners] for _ in range(TIMED_RUNS)]
        return [min(durations_s) for durations_s in zip(*rounds, strict=True)]

    threads = cpus
    while threads > 1 and shortest_s(runner)[0] < LONG_RUN_S:
        threads //= 2
        fewer = open_runner(threads)
        duration_s, fewer_s = shortest_s(runner, fewer)
        if fewer_s > WORTH_HALVING * duration_s:
            break
        runner = fewer
    return runner


def replay_golden(bundle: Bundle, variant_name: str, run: Run) -> None:
    """Run every golden case alone and all of them together.

    Raises:
        BundleError: an answer differs from the source checkpoint's by more than the variant's tolerance.
    """
    cases = bundle.golden().cases
    sequences = golden_sequences(bundle)
    [tolerance] = [
        variant.parity.tolerance * TOLERANCE_FACTOR
        for variant in bundle.manifest.variants
        if variant.name == variant_name
    ]
    for results in ([run([sequence])[0] for sequence in sequences], run(sequences)):
        worst = max(_difference(case, result) for case, result in zip(cases, results, strict=True))
        if not worst <= tolerance:
            raise BundleError(
                f"Variant {variant_name} of bundle {bundle.name} does not give the golden answers on this machine: they "
                f"differ by {worst:.2g}, at most {tolerance:.2g} is allowed. "
                "Export the model again, or serve another variant with BERT_PRECISION."
            )


def measure_speed(
    bundle: Bundle,
    run: Run,
    *,
    limit_tokens: int,
    search_for_s: float = SEARCH_FOR_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Find the smallest batch budget that reaches 95% of the best rate.

    A larger batch is only worth its longer wait while it is faster by the token. Sizes double until that stops: on a CPU
    within a few hundred tokens, on a GPU much later.

    Args:
        bundle: Its golden cases, again and again, are the batches.
        run: Runs a batch.
        limit_tokens: The largest budget to try.
        search_for_s: After that no larger one is tried.
        clock: Seconds.
    """
    sequences = golden_sequences(bundle)
    batches: dict[int, list[TokenSequence]] = {}
    seconds: dict[int, float] = {}

    def measure(size: int) -> None:
        per_token = _timed(run, batches[size], clock) / sum(map(len, batches[size]))
        seconds[size] = min(seconds.get(size, per_token), per_token)

    budget = min(FIRST_BUDGET_TOKENS, limit_tokens)
    started_at = clock()
    while budget <= limit_tokens and clock() < started_at + search_for_s:
        batches[budget] = _batch_of(sequences, budget)
        try:
            measure(budget)
            measure(budget)  # the first run of a size pays for what libraries set up
        except OutOfDeviceMemory:
            if not seconds:
                raise
            log.warning("model %s: a batch of %d tokens does not fit into the device's memory", bundle.name, budget)
            break
        sizes = list(seconds)
        has_levelled = len(sizes) > 2 and min(seconds.values()) > GOOD_ENOUGH * min(
            seconds[size] for size in sizes[:-2]
        )
        if has_levelled:
            break
        budget *= 2
    # Again in turns, and the shortest of each counts: what else the machine does must not choose the budget.
    for _ in range(MOST_ROUNDS):
        for size in seconds:
            measure(size)
        if clock() > started_at + MEASURE_FOR_S:
            break
    best = min(seconds.values())
    chosen = min(size for size, per_token in seconds.items() if GOOD_ENOUGH * per_token <= best)
    return Speed(chosen, seconds[chosen])


def run_every_shape(bundle: Bundle, run: Run, trim: Run, budget_tokens: int) -> None:
    """Run the two batches that take the most memory, then one sequence of every length and small batches.

    A device's memory grows to the largest batch at once, and stays; its libraries choose and load their kernels by
    shape. Each is run twice, as a session may have two places for its inputs.

    What a graph takes of memory grows with the batch's tokens, with its sequences, or with its sequences times the longest
    one (`token_offset`, and a number for each of those and each head within attention). So no batch takes more than the
    fullest one of longest sequences and the widest: one longest sequence and as many of the shortest as there is room for.
    Only masks count beside: a batch with more of them than sequences takes more for the vocabulary's scores.

    Args:
        bundle: Its first golden case, shortened or repeated, fills the batches.
        run: Runs a batch.
        trim: Runs a batch and then gives back the device memory that larger ones took.
        budget_tokens: Most tokens that share a batch.

    Raises:
        OutOfDeviceMemory: the fullest batch does not fit.
    """
    longest = bundle.manifest.max_length
    [template, *_] = golden_sequences(bundle)
    trim([template])
    _run_twice(run, template, [longest] * max(1, budget_tokens // longest))
    long = min(longest, budget_tokens // 2 + 1)  # with a longer one there would be room for too few beside it
    widest = [long] + [SHORTEST_TOKENS] * ((budget_tokens - long) // SHORTEST_TOKENS)
    try:
        _run_twice(run, template, widest)
    except OutOfDeviceMemory:
        log.warning(
            "model %s: a text of %d tokens and %d of the shortest in one batch do not fit into the device's memory. Should "
            "they come together, they run one by one; a smaller BERT_BATCH_TOKENS than %d avoids it",
            bundle.name,
            long,
            len(widest) - 1,
            budget_tokens,
        )
    lengths = [2**i for i in range(3, longest.bit_length()) if 2**i < longest]
    for length in [*lengths, longest]:
        for count in (1, 2, 4, 8):
            if length * count <= budget_tokens:
                _run_twice(run, template, [length] * count)


def _run_twice(run: Run, template: TokenSequence, shape: Sequence[int]) -> None:
    batch = [_of_length(template, length) for length in shape]
    for _ in range(2):
        run(batch)


def _of_length(template: TokenSequence, length: int) -> TokenSequence:
    """Return a sequence of another one's tokens, again and again, with as many masks."""
    return TokenSequence(
        np.resize(template.input_ids, length),
        np.resize(template.token_type_ids, length),
        np.minimum(template.masks, length - 1),
        template.top_k,
    )


def _batch_of(sequences: Sequence[TokenSequence], budget_tokens: int) -> list[TokenSequence]:
    batch: list[TokenSequence] = []
    room = budget_tokens
    for sequence in cycle(sequences):
        if len(sequence) > room and batch:
            break
        batch.append(sequence)
        room -= len(sequence)
    return batch


def _timed(run: Run, batch: Sequence[TokenSequence], clock: Callable[[], float]) -> float:
    started_at = clock()
    run(batch)
    return clock() - started_at


def golden_sequences(bundle: Bundle) -> list[TokenSequence]:
    """Return the golden inputs."""
    mask = bundle.manifest.special_tokens.mask
    return [_sequence(case, None if mask is None else mask.id) for case in bundle.golden().cases]


def _sequence(case: GoldenCase, mask_token_id: int | None) -> TokenSequence:
    input_ids = np.array(case.input_ids, np.int64)
    masks = np.flatnonzero(input_ids == mask_token_id) if case.masks is not None else np.empty(0, np.int64)
    top_k = len(case.masks[0].tokens) if case.masks else 0
    return TokenSequence(input_ids, np.array(case.token_type_ids, np.int64), masks, top_k)


def _difference(case: GoldenCase, result: SequenceResult) -> float:
    """Return the largest difference of logits, or of the best tokens' scores by rank."""
    if isinstance(result, MaskScores):
        expected = np.array([mask.scores for mask in case.masks or ()])
        return float(np.abs(result.scores - expected).max())
    return float(np.abs(result - np.array(case.logits)).max())
