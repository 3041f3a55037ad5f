"""The native API: `POST /v1/<task>` for every task, strict about what it is sent."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from app.http.api import Api, Call, Inference, Received
from app.http.parsing import parse
from app.tasks import TASKS
from app.tasks.base import TaskHandler
from app.telemetry.record import RequestRecord


class NativeApi(Api):
    """`POST /v1/<task>`."""

    name = "native"
    needs_scheme = True

    @property
    def routes(self) -> Sequence[Inference]:
        return [self.route(handler) for handler in TASKS.values()]

    def route(self, handler: TaskHandler[Any, Any, Any]) -> Inference:
        """Return the route of a task."""
        return Inference(
            f"/v1/{handler.task}", handler.summary, partial(self.read, handler), handler.request, handler.task
        )

    def read(self, handler: TaskHandler[Any, Any, Any], received: Received) -> Call:
        """Read a request of a task.

        Raises:
            ValidationError: the body has not the task's form.
            NotFound, ValidationFailed: it names no model that does the task.
        """
        request: Any = parse(handler.request, received.body)
        model = self.served.catalog.for_task(handler, request.model)
        return Call(handler, model, request, partial(_write, model.name))


def _write(model: str, predictions: list[Any], record: RequestRecord) -> object:
    usage = {"tokens": record.tokens, "truncated": record.truncated}
    return {"model": model, "predictions": predictions, "usage": usage}
