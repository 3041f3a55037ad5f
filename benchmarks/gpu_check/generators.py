"""Load from several processes: one generator of `benchmarks.load` reaches some ten thousand requests per second.

Each process sends its share of the requests, over its share of the connections; all start at once.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Final, Self

import numpy as np

from benchmarks.load import FloatArray, Load, Stalled, closed_loop, open_loop

_MEET_WITHIN_S: Final = 60.0

_Job = Callable[[], Load]


class Generators:
    """Processes that wait to send."""

    def __init__(self, count: int) -> None:
        # A process that CUDA was used in must not be forked.
        context = multiprocessing.get_context("spawn")
        self._start: Final = context.Barrier(count)  # gone with its maker, who may be faster than the processes
        self._pipes: Final[list[Connection]] = []
        self._processes: Final = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_generate, args=(theirs, self._start), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()

    def closed(self, port: int, requests: Sequence[bytes], *, count: int, connections: int) -> Load:
        """Send about `count` requests in a closed loop; every process sends as many.

        Raises:
            Stalled: the server went silent.
            OSError: it took no connection.
        """
        processes = len(self._pipes)
        return self._run(
            requests,
            lambda share, _: partial(
                closed_loop,
                port,
                share,
                count=-(-count // processes),
                connections=-(-connections // processes),
            ),
        )

    def open(self, port: int, requests: Sequence[bytes], *, due_s: FloatArray, connections: int) -> Load:
        """Send requests when they are due.

        Raises:
            Stalled: the server went silent.
            OSError: it took no connection.
        """
        processes = len(self._pipes)
        return self._run(
            requests,
            lambda share, i: partial(
                open_loop, port, share, due_s=due_s[i::processes], connections=-(-connections // processes)
            ),
        )

    def _run(self, requests: Sequence[bytes], job: Callable[[Sequence[bytes], int], _Job]) -> Load:
        # Each starts elsewhere in the requests, or the server would get each of them several times in a row.
        starts = [i * len(requests) // len(self._pipes) for i in range(len(self._pipes))]
        for i, (pipe, start) in enumerate(zip(self._pipes, starts, strict=True)):
            pipe.send(job([*requests[start:], *requests[:start]], i))
        answers: list[Load | Exception] = [pipe.recv() for pipe in self._pipes]
        loads = []
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
            loads.append(answer)
        return merged(loads, starts)


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


def _generate(jobs: Connection, start: Barrier) -> None:
    while True:
        try:
            job: _Job = jobs.recv()
        except EOFError:
            return
        start.wait(_MEET_WITHIN_S)
        try:
            jobs.send(job())
        except (Stalled, OSError) as error:
            jobs.send(error)
