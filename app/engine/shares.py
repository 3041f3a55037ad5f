"""Callers take turns by their shares: who has got the least for its share is next.

What a caller waits with stands in a line of its own. A line moves on by the cost of what it got, divided by the caller's share,
and the one that is least far is first. A caller that comes (back) begins where the others are: time in which it wanted nothing
is not saved up. Imports nothing else of the project.
"""

from collections import deque
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic, TypeVar

from app.engine.callers import Caller

T = TypeVar("T")
L = TypeVar("L", bound="Line")  # type: ignore[type-arg]


class Line(Generic[T]):
    """What one caller waits with, in its order."""

    def __init__(self, name: str | None, number: int) -> None:
        self.name: Final = name
        self.number: Final = number
        self.share = 1.0
        self.passed = 0.0
        """How far it is."""
        self.is_among = False
        """Whether it is one of those that wait."""
        self.turns: deque[T] = deque()


class Lines(Generic[L]):
    """The lines of all callers. Whoever takes from the first one calls `served` then."""

    def __init__(self, make: Callable[[str | None, int], L]) -> None:
        """Have none yet; `make` makes the line of a name and a number."""
        self._make: Final = make
        self._numbers: Final = count()
        self.by_name: Final[dict[str | None, L]] = {}
        """The line of every caller that ever waited; that of None is nobody's in particular."""
        self.waiting: Final[list[tuple[float, int, L]]] = []
        """A heap of those that are not empty, or the last one that was: the third item of the first is whose turn it is."""
        self._reached = 0.0
        """How far the last line was that left."""

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self.waiting) and bool(self.waiting[0][2].turns)

    def of(self, caller: Caller | None) -> L:
        """Return the line of a caller."""
        name = None if caller is None else caller.name
        line = self.by_name.get(name)
        if line is None:
            line = self.by_name[name] = self._make(name, next(self._numbers))
        if caller is not None and line.share != caller.share:
            self._change_share(line, caller.share)
        return line

    def _change_share(self, line: L, share: float) -> None:
        """Have a line wait by its new share for what it has got: by a share of a thousandth, a text is as much as a thousand."""
        here = self.waiting[0][0] if self.waiting else self._reached
        line.passed = min(line.passed, here) + max(0.0, line.passed - here) * line.share / share
        line.share = share
        self.waiting[:] = [(one.passed, one.number, one) for _, _, one in self.waiting]
        heapify(self.waiting)

    def push(self, line: L, item: object) -> None:
        """Put something at the end of a line."""
        if not line.is_among:
            if self.waiting and not self.waiting[0][2].turns:
                self._leave()
            line.passed = max(line.passed, self.waiting[0][0] if self.waiting else self._reached)
            line.is_among = True
            heappush(self.waiting, (line.passed, line.number, line))
        line.turns.append(item)

    def served(self, cost: float) -> None:
        """Move the first line on, from which something of a cost was taken. May be left out while it is the only one."""
        if len(self.waiting) == 1:
            return
        line = self.waiting[0][2]
        if not line.turns:
            self._leave()
            line.passed += cost / line.share
        else:
            line.passed += cost / line.share
            heapreplace(self.waiting, (line.passed, line.number, line))

    def _leave(self) -> None:
        self._reached, _, line = heappop(self.waiting)
        line.is_among = False


def work_before(own: float, size: float, share: float, others: Iterable[tuple[float, float]]) -> float:
    """Return how much work is done until a caller's own is, in the unit of the arguments.

    Args:
        own: What the caller waits with already, and is done before.
        size: What comes now. It is not counted itself.
        share: The caller's.
        others: The share and the work of every other caller: of that, no more is done meanwhile than it has a share for.
    """
    return own + sum(min(work, (own + size) * other / share) for other, work in others)
