"""What an engine reports: how it serves a model, what waits, and how a request went through.

Plain data, so that the engine may be in another process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from app.bundle.files import key_of
from app.engine.callers import Caller
from app.engine.shares import work_before


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a model runs: the most tokens that share a batch, and how long batches take.

    `seconds_by_tokens` is from the smallest batch, of one short sequence, to the largest.
    """

    budget_tokens: int
    seconds_per_token: float
    seconds_by_tokens: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Faster:
    """A variant that would be faster than the one that is served.

    `setting` has it served. `command` comes first, and adds it to the bundle or installs what runs it; None if it can be served as it
    is. `price` says what it does to answers.
    """

    variant: str
    setting: str
    command: str | None
    price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How a bundle was found to run best: with which variant and execution provider, and how fast.

    `identity` is that of the bundle, `threads` is how many CPU threads a run may have, from the fewest (none: it runs on no CPU),
    `taken_bytes` by how much memory had grown when it was loaded (0: not measured).
    """

    identity: str
    variant: str
    provider: str
    threads: Sequence[int]
    speed: Speed
    taken_bytes: int = 0

    @property
    def way(self) -> tuple[str, str, tuple[int, ...]]:
        """What decides how fast a model is on one machine."""
        return self.variant, self.provider, tuple(self.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Measured):
    """How an engine serves a bundle.

    `version` is that of `deploy/fill_models.py`, if it put it there, `loaded_at` the time, in seconds since 1970, `lanes` how many
    batches run at once with the fewest threads. `instruction_sets` are those of the CPU that it runs on, and `faster` are the variants
    that would run faster there, the fastest first.
    """

    lanes: int
    version: str | None = None
    loaded_at: float = 0.0
    instruction_sets: tuple[str, ...] = ()
    faster: tuple[Faster, ...] = ()


@dataclass(frozen=True, slots=True)
class Serving:
    """What an engine serves, by name: the bundles that it has loaded, and why it has not loaded others."""

    models: Mapping[str, Loaded] = field(default_factory=dict)
    failed: Sequence[str] = ()
    """Their bundles cannot be loaded, and are skipped."""
    unloaded: Sequence[str] = ()
    """An operator has unloaded them."""
    loading: Sequence[str] = ()
    """They are unloaded until another bundle is loaded in their place."""

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the bundles."""
        return frozenset(key_of(name, one.identity) for name, one in self.models.items())

    def without(self, name: str) -> "Serving":
        """Return the same without this name."""
        return Serving(
            {other: one for other, one in self.models.items() if other != name},
            *([one for one in names if one != name] for names in (self.failed, self.unloaded, self.loading)),
        )


State = Literal["loading", "ready", "unloading", "unloaded", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """What an operator sees of a model. `hash` and `version` are those of the bundle that is served, if any.

    `loaded_at` is in seconds since 1970; `error` says why the last load failed, whatever is served still.
    """

    name: str
    state: State
    hash: str | None = None
    version: str | None = None
    loaded_at: float | None = None
    error: str | None = None


class Backlog(NamedTuple):
    """What a caller waits with: `turn_tokens` are those of the next sequence of each of its requests.

    `more` is what it has got since it last waited with nothing: whoever has gone on asking is expected to go on for as long again.
    """

    share: float
    tokens: int
    turn_tokens: int
    more: int


_NOTHING: Final = Backlog(1.0, 0, 0, 0)


@dataclass(slots=True)
class QueueStatistics:
    """What one model has to run, as it was when this was made.

    `running_s` is how long the batches take that run, `queued_s` everything that waits, and `turn_s` one sequence of each
    request that waits: as requests take turns, a request of one sequence waits for no more of the queue. `callers` has what each
    caller waits with, by name.
    """

    sequences: int
    tokens: int
    running_s: float
    queued_s: float
    turn_s: float
    callers: Mapping[str, Backlog] = field(default_factory=dict)

    def wait_s(self, sequences: int, caller: Caller | None = None) -> float:
        """Return the estimated wait of a request that came now, with this many sequences, until its last one starts."""
        if caller is None or not self.callers:
            return self.running_s + min(self.queued_s, sequences * self.turn_s)
        own = self.callers.get(caller.name, _NOTHING)
        before = work_before(
            min(own.tokens, sequences * own.turn_tokens),
            sequences * self.tokens / self.sequences,  # as if its sequences were as long as those that wait
            caller.share,
            ((one.share, one.tokens + one.more) for name, one in self.callers.items() if name != caller.name),
        )
        return self.running_s + self.queued_s * before / self.tokens


@dataclass(frozen=True, slots=True)
class BatchRan:
    """Event: one batch came back from the runner. `longest` is its longest sequence in tokens.

    `started_at` is of the machine's monotonic clock, `share` how much of the device it took.
    """

    sequences: int
    tokens: int
    longest: int
    started_at: float
    duration_s: float
    share: float = 1.0


@dataclass(slots=True)
class Timeline:
    """A request's way through the engine, for its trace. Filled in as it goes.

    Times are of the machine's monotonic clock, which all its processes share. A time is None until then, and `runs` are
    the batches that held at least one of the request's sequences.
    """

    admitted_at: float | None = None
    started_at: float | None = None
    runs: list[BatchRan] = field(default_factory=list)

    def become(self, other: "Timeline") -> None:
        """Take over the times of another process."""
        self.admitted_at, self.started_at, self.runs = other.admitted_at, other.started_at, other.runs

    def add(self, later: "Timeline") -> None:
        """Take the batches of more sequences of the request, which ran later."""
        if self.admitted_at is None:
            self.admitted_at, self.started_at = later.admitted_at, later.started_at
        self.runs += later.runs
