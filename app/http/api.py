"""What an API is made of: routes, how each reads its requests, and how answers and errors are written.

The native API and every dialect are such. A dialect translates to and from the requests of `app.tasks`; `inference` runs
them all in the same way, so that limits, key, metrics, logs and fairness are the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.types import Scope

from app.engine.messages import Loaded, Timeline
from app.errors import ServiceError, ValidationFailed
from app.http.asgi import Header, error_document, header, render_error
from app.http.keys import Keys
from app.http.readiness import Readiness
from app.tasks.base import Model, TaskHandler
from app.tasks.catalog import Catalog
from app.telemetry.record import RequestRecord
from app.work import go_on


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a request, and the keys of callers; None if they need none."""

    max_body_bytes: int
    max_inputs: int
    timeout_s: float
    keys: Keys | None

    def check_inputs(self, inputs: int) -> None:
        """Pass if a request may have this many inputs.

        Raises:
            ValidationFailed: it may not.
        """
        if inputs > self.max_inputs:
            raise ValidationFailed(
                f"The request has {inputs} texts or pairs for the model; at most {self.max_inputs} are allowed. "
                "Send several requests, or raise BERT_MAX_INPUTS."
            )


@dataclass(slots=True)
class Served:
    """What an API may know of the server."""

    catalog: Catalog
    """Another one whenever other models are served: who asks it twice for one request holds on to it."""
    loaded_as: Callable[[str], Loaded | None]
    """How the engine has loaded a model, by name; None while it has not."""
    readiness: Readiness
    limits: Limits


@dataclass(slots=True)  # not frozen: that would triple the cost of making one
class Received:
    """A request that has arrived completely."""

    scope: Scope
    body: bytes
    path: Mapping[str, str]
    """The variable parts of the path, by name."""

    def header(self, name: str) -> str | None:
        """Return the first value of a header; `name` is lower case."""
        value = header(self.scope, name.encode())
        return None if value is None else value.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is not JSON."""

    body: bytes
    content_type: bytes
    headers: Sequence[Header] = ()
    status: int = 200
    """Of a route that runs no model."""


@dataclass(slots=True)  # not frozen, as `Received`
class Call:
    """A request in the terms of the service: a task, a model, and the task's own request."""

    handler: TaskHandler[Any, Any, Any]
    model: Model
    request: Any
    """Of the type `handler.request`."""
    write: Callable[[list[Any], RequestRecord], object]
    """Makes the answer, JSON's types or `Raw`, of the handler's predictions. May run in a worker thread."""
    api: str | None = None
    """The API that the request is in, if it is another than the route's."""


@dataclass(frozen=True, slots=True)
class Inference:
    """A route to a model: `POST` on a path, of which a part in braces is variable.

    `read` translates a request. It may raise a ServiceError, or pydantic's ValidationError, which is explained to the
    caller.
    """

    path: str
    summary: str
    read: Callable[[Received], Call]
    request: type[BaseModel] | None = None
    """The form of the body, for OpenAPI."""
    task: str = "none"
    """What a request is for until it has been read, as logs name it."""
    method: ClassVar[str] = "POST"


@dataclass(frozen=True, slots=True)
class Utility:
    """A route that runs no model: metadata, health, tokenization, what an operator asks for.

    `answer` returns JSON's types, None for an empty body, or `Raw`, or is asynchronous and does. It may raise what `Inference.read` may.
    """

    method: str
    path: str
    summary: str
    answer: Callable[[Received], object]
    is_open: bool = False
    """Whether it needs no API key."""


Route = Inference | Utility


class Api(ABC):
    """One API of this server."""

    name: ClassVar[str]
    """The value of the label `api`, and the name by which `--apis` turns it on."""
    needs_scheme: ClassVar[bool] = False
    """Whether the API key needs the word Bearer before it; some clients send the key alone."""
    wants_timeline: ClassVar[bool] = False
    """Whether answers have `headers`, which are made of the request's times in the engine."""

    def __init__(self, served: Served) -> None:
        self.served: Final = served

    @property
    @abstractmethod
    def routes(self) -> Sequence[Route]:
        """All routes. Two APIs share no path, but for the native ones that a dialect extends."""

    def error(self, error: ServiceError, request_id: str) -> tuple[int, object]:
        """Return the status and the body of an error, which has the headers of the catalogue."""
        return error.status, error_document(error, request_id)

    def headers(self, record: RequestRecord, timeline: Timeline) -> list[Header]:  # noqa: ARG002
        """Return what an answer of a model has besides the headers of all answers, if the API `wants_timeline`."""
        return []


def render_for(api: Api, error: ServiceError, request_id: str) -> tuple[int, list[Header], bytes]:
    """Return status, headers and body of an error, in the form of an API."""
    status, document = api.error(error, request_id)
    return status, *render_error(error, request_id, document)


def write_json(document: object) -> bytes:
    """Return JSON. What is large is written in parts, because `to_json` holds the GIL until it is done."""
    if isinstance(document, list):
        return b"[%s]" % b",".join([_write_item(item) for item in document])
    if isinstance(document, dict):
        items = [b"%s:%s" % (to_json(key), write_json(value)) for key, value in document.items()]
        return b"{%s}" % b",".join(items)
    return to_json(document)


def _write_item(item: object) -> bytes:
    """Write an item of a list, which may be a list of many lists and objects."""
    go_on()
    if isinstance(item, list) and len(item) > 1 and isinstance(item[0], list | dict):
        return write_json(item)
    return to_json(item)
