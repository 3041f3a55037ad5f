"""What the engine process listens with: front ends connect, send requests and get replies.

Lives on the engine process's event loop. A front end that goes away withdraws what it asked for.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, astuple
from functools import partial
from pathlib import Path
from typing import Final, cast

import numpy as np

from app.bundle.sequences import SequenceResult
from app.engine.local import LocalEngine, SubmittedJob
from app.engine.messages import Loaded, Timeline
from app.errors import Internal, ServiceError
from app.ipc.codec import WireReply, decode_requests, encode_replies
from app.ipc.frames import HELLO, REPLIES, REQUESTS, STATISTICS, WITHDRAW, FrameReader, frame

log = logging.getLogger(__name__)

STATISTICS_EVERY_S: Final = 0.1


class _FrontEnd(asyncio.Protocol):
    """The connection of one front end."""

    def __init__(self, server: "EngineServer") -> None:
        self._server = server
        self._frames = FrameReader()
        self._jobs: dict[int, tuple[str, SubmittedJob]] = {}
        self._replies: list[WireReply] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without being of the class
        self.transport.write(frame(HELLO, self._server.hello))
        self._server.front_ends.add(self)

    def data_received(self, data: bytes) -> None:
        for kind, body in self._frames.feed(data):
            if kind == REQUESTS:
                self._admit(body)
            elif kind == WITHDRAW:
                for id_ in np.frombuffer(body, np.int64).tolist():
                    self._withdraw(id_)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        self._server.front_ends.discard(self)
        self._server.left.set()
        for id_ in list(self._jobs):
            self._withdraw(id_)

    def _admit(self, body: bytes) -> None:
        for request in decode_requests(body):
            model = self._server.models[request.model]
            try:
                job = self._server.engine.submit(model, request.sequences, Timeline() if request.is_timed else None)
            except ServiceError as error:
                self._reply(WireReply(request.id, error))
                continue
            self._jobs[request.id] = (model, job)
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
            self._reply(WireReply(id_, future.result(), timeline))
        else:
            self._reply(WireReply(id_, error if isinstance(error, ServiceError) else Internal(str(error)), timeline))

    def _reply(self, reply: WireReply) -> None:
        self._replies.append(reply)
        if len(self._replies) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        replies, self._replies = self._replies, []
        if self.transport is not None:
            self.transport.write(frame(REPLIES, encode_replies(replies)))


class EngineServer:
    """Serves a `LocalEngine` on a Unix socket."""

    def __init__(self, engine: LocalEngine, loaded: Mapping[str, Loaded]) -> None:
        self.engine = engine
        self.models: Final = list(loaded)
        self.hello: Final = json.dumps({name: asdict(one) for name, one in loaded.items()}).encode()
        self.front_ends: set[_FrontEnd] = set()
        self.left = asyncio.Event()
        self._listening: asyncio.Server | None = None

    async def serve(self, socket_path: Path) -> None:
        """Take connections until cancelled."""
        _remove(socket_path)  # of an engine that died
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_unix_server(lambda: _FrontEnd(self), str(socket_path))
        try:
            while True:
                await asyncio.sleep(STATISTICS_EVERY_S)
                rows = {name: astuple(queue) for name, queue in self.engine.statistics().items()}
                for front_end in self.front_ends:
                    assert front_end.transport is not None
                    front_end.transport.write(frame(STATISTICS, json.dumps(rows).encode()))
        finally:
            self._listening.close()

    async def until_alone(self) -> None:
        """Take no more connections, and wait until no front end is connected."""
        if self._listening is not None:
            self._listening.close()
        while self.front_ends:
            self.left.clear()
            await self.left.wait()


def _remove(socket_path: Path) -> None:
    socket_path.unlink(missing_ok=True)
