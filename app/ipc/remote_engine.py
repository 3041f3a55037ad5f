"""The engine as a front end sees it: a Unix socket with an engine process at the other end.

Lives on the front end's event loop. When the engine goes away, every waiting request fails at once, and the client
connects to the engine that replaces it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from time import monotonic
from typing import Final, Literal, NamedTuple, NoReturn

from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.callers import Caller
from app.engine.messages import ModelState, QueueStatistics, Serving, Timeline
from app.engine.rates import Bucket, refuse_debt
from app.errors import BundleError, DeadlineExceeded, EngineLost, Internal, Replaced
from app.ipc.codec import (
    Administer,
    Administered,
    Done,
    EngineRequest,
    FromFrontEnd,
    Hello,
    Prepare,
    Replies,
    Requests,
    Statistics,
    Withdrawal,
    decode_from_engine,
    encode,
    unpack_error,
)
from app.ipc.frames import DamagedFrame, FrameReader, frame

log = logging.getLogger(__name__)

RECONNECT_EVERY_S: Final = 0.05
LOOK_EVERY_S: Final = 0.5
LATE_S: Final = 2.0
"""How much later than the engine a front end fails a request that is past its deadline, seconds."""


class _Waiting(NamedTuple):
    future: asyncio.Future[list[SequenceResult]]
    timeline: Timeline | None
    deadline: float


class RemoteEngine:
    """An `EngineClient` whose engine is another process."""

    def __init__(
        self,
        socket_path: Path,
        *,
        admission: Admission,
    ) -> None:
        """Connect to nothing yet: `stay_connected` does.

        Args:
            socket_path: Where the engine listens.
            admission: Of the engine.
        """
        self._socket_path = socket_path
        self._admission = admission
        self._writer: asyncio.StreamWriter | None = None
        self._keys: frozenset[str] | None = None
        """Those of the bundles that the engine has; None while there is no engine."""
        self._administered: dict[int, asyncio.Future[list[ModelState]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._statistics: Mapping[str, QueueStatistics] = {}
        self._debts: Mapping[str, Bucket] = {}
        self._ids = count()
        self._waiting: dict[int, _Waiting] = {}
        self._outbox: list[EngineRequest] = []
        self._withdrawn: list[int] = []

    async def infer(
        self,
        model: str,
        sequences: Sequence[TokenSequence],
        timeline: Timeline | None = None,
        caller: Caller | None = None,
    ) -> list[SequenceResult]:
        if self._keys is None:
            raise EngineLost
        if model not in self._keys:
            raise Replaced
        if not sequences:
            raise Internal("The engine was asked to run a request without sequences.")  # which a frame cannot hold
        id_ = next(self._ids)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[SequenceResult]] = loop.create_future()
        self._waiting[id_] = _Waiting(future, timeline, loop.time() + self._admission.timeout_s + LATE_S)
        self._outbox.append(EngineRequest(id_, model, sequences, timeline is not None, caller))
        self._flush_soon()
        try:
            return await future
        except asyncio.CancelledError:
            if self._waiting.pop(id_, None) is not None:
                self._withdrawn.append(id_)
                self._flush_soon()
            raise
        finally:
            del future  # it has what is raised, which has this frame: the request would wait for the garbage collector

    def check_rate(self, caller: Caller) -> None:
        # As of the last tenth of a second, as in `check`.
        refuse_debt(caller, self._debts.get(caller.name), monotonic())

    def check(self, model: str, sequences: int, caller: Caller | None = None) -> None:
        # As of the last tenth of a second, in which the engine's own check of what is let through has the last word.
        if self._keys is not None and model not in self._keys:
            raise Replaced
        if model in self._statistics:
            self._admission.refuse_long_wait(self._statistics[model].wait_s(sequences, caller))

    async def stay_connected(
        self,
        prepare: Callable[[str], Awaitable[None]],
        connected: Callable[[Serving], Awaitable[None]],
        lost: Callable[[], None],
    ) -> NoReturn:
        """Keep a connection to whichever engine listens, until cancelled.

        Args:
            prepare: Called with the key of a bundle that may be served soon. Raises a BundleError if requests for it cannot be made.
            connected: Called with what the engine serves when it is ready, and whenever it serves other models. Once it returns,
                requests are made for these. What it raises is raised here.
            lost: Called when a connected engine goes away.
        """
        reported: int | None = None
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._socket_path))
            except OSError as error:
                is_loading = isinstance(error, FileNotFoundError | ConnectionRefusedError)
                if not is_loading and error.errno != reported:
                    log.error("the engine cannot be reached: %s", error)  # noqa: TRY400
                    reported = error.errno
                await asyncio.sleep(RECONNECT_EVERY_S)
                continue
            reported = None
            self._writer = writer
            watching = asyncio.create_task(self._tell_late())
            try:
                await self._read(reader, prepare, connected)
            except DamagedFrame:
                log.exception("the connection to the engine is given up")
            except ConnectionError as error:
                log.debug("the connection to the engine broke: %s", error)
            finally:
                watching.cancel()
                writer.close()
                if self._disconnect():
                    lost()
            await asyncio.sleep(RECONNECT_EVERY_S)

    async def _read(
        self,
        reader: asyncio.StreamReader,
        prepare: Callable[[str], Awaitable[None]],
        connected: Callable[[Serving], Awaitable[None]],
    ) -> None:
        frames = FrameReader()
        while data := await reader.read(1 << 20):
            for body in frames.feed(data):
                match message := decode_from_engine(body):
                    case Replies():
                        self._deliver(message)
                    case Statistics():
                        self._statistics, self._debts = message.models, message.debts
                    case Administered():
                        self._answer(message)
                    case Prepare():
                        # Meanwhile the answers for what is served now are read.
                        task = asyncio.create_task(self._prepare(message, prepare))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                    case Hello(serving, number):
                        # The engine has a bundle before it says so, and for as long as requests for it may come.
                        self._keys = (self._keys or frozenset()) | serving.keys
                        await connected(serving)
                        self._keys = serving.keys
                        self._send(Done(number))

    async def _prepare(self, asked: Prepare, prepare: Callable[[str], Awaitable[None]]) -> None:
        error = None
        try:
            await prepare(asked.key)
        except BundleError as problem:
            error = str(problem)
        except Exception as problem:
            log.exception("a bundle could not be prepared")
            error = f"A front end cannot read it: {type(problem).__name__}. The log of the service has the cause."
        self._send(Done(asked.number, error))

    async def states(self) -> Sequence[ModelState]:
        return await self._administer("states")

    async def load(self, name: str) -> ModelState:
        [state] = await self._administer("load", name)
        return state

    async def unload(self, name: str) -> ModelState:
        [state] = await self._administer("unload", name)
        return state

    async def _administer(self, action: Literal["states", "load", "unload"], name: str = "") -> list[ModelState]:
        if self._keys is None:
            raise EngineLost
        number = next(self._ids)
        self._administered[number] = asyncio.get_running_loop().create_future()
        self._send(Administer(number, action, name))
        try:
            return await self._administered[number]
        finally:
            self._administered.pop(number, None)

    def _answer(self, answer: Administered) -> None:
        future = self._administered.get(answer.number)
        if future is None or future.done():
            return
        if answer.failure is not None:
            future.set_exception(unpack_error(answer.failure))
        else:
            future.set_result(answer.states)

    def _send(self, message: FromFrontEnd) -> None:
        if self._writer is not None:
            self._writer.write(frame(encode(message)))

    async def _tell_late(self) -> None:
        """Fail late requests, until cancelled. The supervisor replaces an engine that hangs, but only after a while."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._expire()

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        # In the order of their deadlines, as all have one timeout.
        for id_ in list(takewhile(lambda id_: self._waiting[id_].deadline <= now, self._waiting)):
            future = self._waiting.pop(id_).future
            if not future.done():
                future.set_exception(
                    DeadlineExceeded(
                        f"No answer within {self._admission.timeout_s:g} s, and none from the engine that there is none. Retry later."
                    )
                )
            self._withdrawn.append(id_)
            self._flush_soon()

    def _deliver(self, replies: Replies) -> None:
        for reply in replies.unpack():
            waiting = self._waiting.pop(reply.id, None)
            if waiting is None:
                continue  # it was withdrawn
            future, timeline, _ = waiting
            if timeline is not None and reply.timeline is not None:
                timeline.become(reply.timeline)
            if future.done():
                continue  # its caller was cancelled in this turn
            if isinstance(reply.outcome, Exception):
                future.set_exception(reply.outcome)
            else:
                future.set_result(list(reply.outcome))

    def _disconnect(self) -> bool:
        """Fail all that waits; return whether there was an engine."""
        had_engine, self._writer, self._keys = self._keys is not None, None, None
        self._statistics, self._debts = {}, {}
        self._outbox.clear()
        self._withdrawn.clear()
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_exception(EngineLost())
        self._waiting.clear()
        for future in self._administered.values():
            if not future.done():
                future.set_exception(EngineLost())
        return had_engine

    def _flush_soon(self) -> None:
        # All requests of this iteration of the loop travel in one frame.
        if len(self._outbox) + len(self._withdrawn) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        withdrawn, self._withdrawn = self._withdrawn, []
        if self._writer is None:
            return
        if outbox:
            self._writer.write(frame(encode(Requests.pack(outbox))))
        if withdrawn:
            self._writer.write(frame(encode(Withdrawal(withdrawn))))
