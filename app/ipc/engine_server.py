"""What the engine process listens with: front ends connect, send requests and get replies.

Lives on the engine process's event loop. If a front end disconnects, its requests are withdrawn.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final, cast

from app.bundle.sequences import SequenceResult
from app.engine.local import LocalEngine, SubmittedJob
from app.engine.messages import ModelState, Serving, Timeline
from app.engine.protocols import Administration
from app.errors import Internal, Replaced, ServiceError
from app.ipc.codec import (
    Administer,
    Administered,
    Done,
    EngineReply,
    FromEngine,
    Hello,
    Prepare,
    Replies,
    Requests,
    Statistics,
    Withdrawal,
    decode_from_front_end,
    encode,
    pack_error,
)
from app.ipc.frames import FrameReader, frame

log = logging.getLogger(__name__)

STATISTICS_EVERY_S: Final = 0.1


class _FrontEnd(asyncio.Protocol):
    """The connection of one front end."""

    def __init__(self, server: "EngineServer") -> None:
        self._server = server
        self._frames = FrameReader()
        self._jobs: dict[int, tuple[str, SubmittedJob]] = {}
        self._replies: list[EngineReply] = []
        self._asked: dict[int, asyncio.Future[str | None]] = {}
        self._administering: set[asyncio.Task[None]] = set()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without being of the class
        self._server.front_ends.add(self)
        self._server.put_back()
        self.send(Hello(self._server.serving, next(self._server.numbers)))

    def data_received(self, data: bytes) -> None:
        for body in self._frames.feed(data):
            match message := decode_from_front_end(body):
                case Requests():
                    self._admit(message)
                case Withdrawal():
                    for id_ in message.ids:
                        self._withdraw(id_)
                case Done(number, error):
                    if number in self._asked:
                        self._asked.pop(number).set_result(error)
                case Administer():
                    task = asyncio.create_task(self._administer(message))
                    self._administering.add(task)
                    task.add_done_callback(self._administering.discard)

    def send(self, message: FromEngine) -> None:
        """Send a message, unless the front end is gone."""
        if self.transport is not None:
            self.transport.write(frame(encode(message)))

    async def ask(self, message: Hello | Prepare) -> str | None:
        """Have it do something, and return why it could not. One that is gone needs not."""
        self._asked[message.number] = asyncio.get_running_loop().create_future()
        done = self._asked[message.number]
        self.send(message)
        return await done

    async def _administer(self, asked: Administer) -> None:
        administration = self._server.administration
        states: Sequence[ModelState] = ()
        failure = None
        try:
            if asked.action == "states":
                states = await administration.states()
            elif asked.action == "load":
                states = [await administration.load(asked.name)]
            else:
                states = [await administration.unload(asked.name)]
        except ServiceError as error:
            failure = pack_error(error)
        except Exception:
            log.exception("models could not be changed")
            failure = pack_error(Internal())
        self.send(Administered(asked.number, list(states), failure))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        self._server.front_ends.discard(self)
        self._server.left.set()
        for done in self._asked.values():
            done.set_result(None)
        self._asked.clear()
        for id_ in list(self._jobs):
            self._withdraw(id_)

    def _admit(self, requests: Requests) -> None:
        for request in requests.unpack():
            timeline = Timeline() if request.is_timed else None
            try:
                job = self._server.engine.submit(request.model, request.sequences, timeline, request.caller)
            except (ServiceError, Replaced) as error:
                self._reply(EngineReply(request.id, error))
                continue
            self._jobs[request.id] = (request.model, job)
            job.future.add_done_callback(partial(self._done, request.id))

    def _withdraw(self, id_: int) -> None:
        if id_ in self._jobs:
            model, job = self._jobs.pop(id_)
            self._server.engine.withdraw(model, job)

    def _done(self, id_: int, future: asyncio.Future[list[SequenceResult]]) -> None:
        admitted = self._jobs.pop(id_, None)
        if admitted is None or future.cancelled():
            return  # withdrawn
        timeline = admitted[1].timeline
        error = future.exception()
        if error is None:
            self._reply(EngineReply(id_, future.result(), timeline))
        else:
            self._reply(EngineReply(id_, error if isinstance(error, ServiceError) else Internal(str(error)), timeline))

    def _reply(self, reply: EngineReply) -> None:
        self._replies.append(reply)
        if len(self._replies) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        if self.transport is not None:
            self.transport.write(frame(encode(Replies.pack(replies))))


class EngineServer:
    """Serves a `LocalEngine` on a Unix socket."""

    def __init__(self, engine: LocalEngine, serving: Serving, put_back: Callable[[], None] = lambda: None) -> None:
        """Take the engine, what it serves, and what puts back files that a front end reads when it connects."""
        self.engine = engine
        self.put_back: Final = put_back
        self.serving = serving
        self.administration: Administration
        """Answers operators; set before `serve`."""
        self.numbers: Final = count()
        self.front_ends: set[_FrontEnd] = set()
        self.left = asyncio.Event()
        self._listening: asyncio.Server | None = None
        self._is_ending = False
        self._reported: int | None = None
        """Why it could not listen, the last time."""

    async def serve(self, socket_path: Path) -> None:
        """Take connections until cancelled."""
        try:
            await self._try_to_listen(socket_path)
            was_missing = False
            while True:
                await asyncio.sleep(STATISTICS_EVERY_S)
                # Some clean /tmp, and a front end that is started later would wait for an engine for ever.
                is_missing = not self._is_ending and not _exists(socket_path)
                # Not at once: it may be that the service ends, which this process learns in a moment.
                if is_missing and was_missing and await self._try_to_listen(socket_path):
                    log.warning("%s was missing: listening there again", socket_path)
                was_missing = is_missing
                statistics = frame(encode(Statistics(self.engine.statistics(), self.engine.rates.debts(monotonic()))))
                for front_end in self.front_ends:
                    assert front_end.transport is not None
                    front_end.transport.write(statistics)
        finally:
            if self._listening is not None:
                self._listening.close()

    async def _try_to_listen(self, socket_path: Path) -> bool:
        """Make the socket, and what is missing of its folder; if that fails, log it once."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        loop = asyncio.get_running_loop()
        try:
            _make_room(socket_path)
            self._listening = await loop.create_unix_server(lambda: _FrontEnd(self), str(socket_path))
        except OSError as error:
            if error.errno != self._reported:
                log.error("cannot listen at %s, trying again: %s", socket_path, error)  # noqa: TRY400
            self._reported = error.errno
            return False
        self._reported = None
        return True

    async def prepare(self, key: str) -> str | None:
        """Have every front end make itself ready for a bundle; return why one cannot."""
        number = next(self.numbers)
        told = await asyncio.gather(*(front_end.ask(Prepare(key, number)) for front_end in self.front_ends))
        return next((error for error in told if error is not None), None)

    async def switch(self, serving: Serving) -> None:
        """Have every front end make requests for these bundles from now on, and return once they do."""
        self.serving = serving
        number = next(self.numbers)
        await asyncio.gather(*(front_end.ask(Hello(serving, number)) for front_end in self.front_ends))

    async def until_alone(self) -> None:
        """Take no more connections, and wait until no front end is connected."""
        self._is_ending = True
        if self._listening is not None:
            self._listening.close()
        while self.front_ends:
            self.left.clear()
            await self.left.wait()


def _exists(path: Path) -> bool:
    with suppress(OSError):  # where that cannot be found out
        return path.exists()
    return False


def _make_room(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of an engine that died
