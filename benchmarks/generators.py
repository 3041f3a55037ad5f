"""Load from several processes: one generator of `benchmarks.load` reaches some ten thousand requests per second.

Each process sends its share of the requests, over its share of the connections; all start at once.
"""

import multiprocessing
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from typing import Final, Self

import numpy as np

from benchmarks.load import FloatArray, Load, closed_loop, open_loop

_MEET_WITHIN_S: Final = 60.0
_start: Barrier


class Generators:
    """Processes that wait to send."""

    def __init__(self, count: int) -> None:
        self._count: Final = count
        # A process that CUDA was used in must not be forked.
        context = multiprocessing.get_context("spawn")
        self._pool: Final = context.Pool(count, _be_generator, [context.Barrier(count)])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()
        self._pool.join()

    def closed(self, port: int, requests: Sequence[bytes], *, count: int, connections: int) -> Load:
        """Send about `count` requests in a closed loop; every process sends as many.

        Raises:
            Stalled: the server went silent.
            OSError: it took no connection.
        """
        return self._send(port, requests, [-(-count // self._count)] * self._count, connections)

    def open(self, port: int, requests: Sequence[bytes], *, due_s: FloatArray, connections: int) -> Load:
        """Send requests when they are due.

        Raises:
            Stalled: the server went silent.
            OSError: it took no connection.
        """
        return self._send(port, requests, [due_s[i :: self._count] for i in range(self._count)], connections)

    def _send(self, port: int, requests: Sequence[bytes], shares: Sequence[int | FloatArray], connections: int) -> Load:
        # Each starts elsewhere in the requests, or the server would get each of them several times in a row.
        starts = [i * len(requests) // self._count for i in range(self._count)]
        jobs = [
            (port, [*requests[start:], *requests[:start]], share, -(-connections // self._count))
            for start, share in zip(starts, shares, strict=True)
        ]
        return merged(self._pool.starmap(_generate, jobs, chunksize=1), starts)


def merged(loads: Sequence[Load], starts: Sequence[int]) -> Load:
    """Return loads that began at once as one, in the order of the answers. A request's number still tells which it was.

    Args:
        loads: One of each process.
        starts: Where in the requests each process began.
    """
    answered_s = np.concatenate([load.answered_s for load in loads])
    order = np.argsort(answered_s, kind="stable")
    return Load(
        np.concatenate([load.request + start for load, start in zip(loads, starts, strict=True)])[order],
        np.concatenate([load.status for load in loads])[order],
        np.concatenate([load.scheduled_s for load in loads])[order],
        answered_s[order],
        max(load.generator_cpu for load in loads),
    )


def _be_generator(start: Barrier) -> None:
    global _start  # noqa: PLW0603 - a pool hands a barrier over only so
    _start = start


def _generate(port: int, requests: Sequence[bytes], share: int | FloatArray, connections: int) -> Load:
    _start.wait(_MEET_WITHIN_S)  # so no process takes two shares, either
    if isinstance(share, int):
        return closed_loop(port, requests, count=share, connections=connections)
    return open_loop(port, requests, due_s=share, connections=connections)
