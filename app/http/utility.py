"""The routes of an API that run no model."""

from collections.abc import Awaitable, Mapping
from functools import partial
from time import monotonic
from typing import Final

from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from app.errors import MethodNotAllowed
from app.http.api import Api, Raw, Received, Utility, write_json
from app.http.asgi import CHANGES, ENCODED, Header, answer_headers, authorize, read_body, respond
from app.http.compression.answers import Compressor
from app.http.compression.bodies import COMPRESSES, read_decompressed
from app.http.disconnects import Disconnects
from app.http.finished import Finished
from app.http.large_work import LargeWork
from app.http.outcome import outcome
from app.http.problems import explain
from app.tasks.base import SHORT_BYTES
from app.telemetry.record import RequestRecord


class UtilityEndpoint:
    """Answers one route of an API that runs no model."""

    def __init__(
        self, api: Api, route: Utility, *, large: LargeWork, finished: Finished, compressor: Compressor | None = None
    ) -> None:
        self.api: Final = api
        self.route: Final = route
        self.allowed = route.method
        """The methods of its path, as an error names them."""
        self._large = large
        self._finished = finished
        self._compressor = compressor
        self._disconnects = Disconnects()

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, path: Mapping[str, str]
    ) -> None:
        """Answer one request. What needs no key is not told of: health, which is asked for every few seconds."""
        started_at = monotonic()
        record = RequestRecord(request_id, self.api.name, "none")
        answer = await outcome(self._answer(scope, receive, record, path), self.api, record)
        if answer is not None:
            await respond(send, record.status, *answer)
        record.changes = scope.get(CHANGES)
        if not self.route.is_open:
            self._finished.request(scope, record, started_at)

    async def _answer(
        self, scope: Scope, receive: Receive, record: RequestRecord, path: Mapping[str, str]
    ) -> tuple[list[Header], bytes]:
        limits = self.api.served.limits
        if scope["method"] not in (self.route.method, "HEAD" if self.route.method == "GET" else ""):
            raise MethodNotAllowed(self.allowed)
        caller = None
        if not self.route.is_open:
            caller = authorize(scope, limits.keys, needs_scheme=self.api.needs_scheme)
            record.caller = None if caller is None else caller.name
        received = Received(scope, await read_body(scope, receive, limits.max_body_bytes), path)
        if ENCODED in scope:
            size = len(received.body) * COMPRESSES
            read = partial(read_decompressed, lambda received: received, received, limits.max_body_bytes)
            await self._disconnects.unless_gone(self._large.read(read, size, caller), receive)
        try:
            if len(received.body) <= SHORT_BYTES:
                answer = self._written(received)
            else:
                work = self._large.tokenize(partial(self._written, received), len(received.body), caller=caller)
                answer = await self._disconnects.unless_gone(work, receive)
        except ValidationError as error:
            raise explain(error, received.body, None) from None
        if not isinstance(answer, Raw):
            answer = _raw(await self._disconnects.unless_gone(answer, receive))
        if self._compressor is not None:
            answer = await self._compressor.compressed(scope, answer)
        record.status = answer.status
        headers = [*answer_headers(answer.body, record.request_id, answer.content_type), *answer.headers]
        if answer.status == 304:  # its length would be that of what is not sent
            headers = [(name, value) for name, value in headers if name != b"content-length"]
        return headers, answer.body

    def _written(self, received: Received) -> Raw | Awaitable[object]:
        document = self.route.answer(received)
        return document if isinstance(document, Awaitable) else _raw(document)


def _raw(document: object) -> Raw:
    if isinstance(document, Raw):
        return document
    return Raw(b"" if document is None else write_json(document), b"application/json")
