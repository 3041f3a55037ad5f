"""The routes of text-embeddings-inference. They do what its release 1.9.3 does, by its source."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ValidationError

from app import __version__
from app.engine.messages import Timeline
from app.errors import ServiceError, ValidationFailed
from app.http.api import Api, Call, Inference, Received, Route, Utility
from app.http.asgi import Header
from app.http.dialects.tei.requests import EmbedForm, Form, PredictForm, RerankForm, SimilarityForm
from app.http.dialects.tei.tokens import DecodeForm, TokenizeForm, decoded, tokenized
from app.http.models import public_source
from app.http.parsing import parse
from app.http.problems import explain
from app.tasks import TASKS
from app.tasks.base import Model, TaskHandler
from app.telemetry.record import RequestRecord

FORMS: Final[Mapping[str, tuple[str, type[Form]]]] = {
    "/embed": ("embed", EmbedForm),
    "/predict": ("classify", PredictForm),
    "/rerank": ("rerank", RerankForm),
    "/similarity": ("similarity", SimilarityForm),
}
"""The routes to a model: for each the task, and the form of its requests."""
BELOW: Final = ("", "/models/{model}")
"""Where the routes are: at the root, for the task's default or only model, and below each model."""
OF_STATUS: Final[Mapping[int, str]] = {429: "Overloaded", 500: "Backend", 503: "Unhealthy", 504: "Backend"}
"""The `error_type` of a status; that of all others is Validation."""
NAMES: Final = (
    (re.compile(r"^inputs(?:\[0\])?\.(query|texts)"), r"\1"),
    (re.compile(r"^inputs\[0\]\.(source_sentence|sentences)"), r"inputs.\1"),
    (re.compile(r"^parameters\."), ""),
)
"""The native names of keys at the beginning of an error, and what they are called here."""
DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class Empty(ValidationFailed):
    """An input holds nothing, which has a status and an `error_type` of its own."""

    status = 400


class TeiApi(Api):
    """The routes of text-embeddings-inference."""

    name: ClassVar[str] = "tei"
    wants_timeline: ClassVar[bool] = True

    @property
    def routes(self) -> Sequence[Route]:
        return [route for below in BELOW for route in self._routes(below)]

    def _routes(self, below: str) -> list[Route]:
        return [
            *(
                Inference(below + path, TASKS[task].summary, partial(self._read, TASKS[task], form), form, task)
                for path, (task, form) in FORMS.items()
            ),
            Utility("POST", f"{below}/embed_all", "Refused: an embedding for each token", self._refuse_embed_all),
            Utility("POST", f"{below}/embed_sparse", "Refused: sparse embeddings", self._refuse_embed_sparse),
            Utility("POST", f"{below}/tokenize", "The tokens of texts", self._tokenize),
            Utility("POST", f"{below}/decode", "The texts of token ids", self._decode),
            Utility("GET", f"{below}/info", "What is served, and its limits", self._info),
        ]

    def error(self, error: ServiceError, request_id: str) -> tuple[int, object]:  # noqa: ARG002
        kind = "Empty" if isinstance(error, Empty) else OF_STATUS.get(error.status, "Validation")
        message = error.message
        for native, name in NAMES:
            message = native.sub(name, message)
        return error.status, {"error": message, "error_type": kind}

    def headers(self, record: RequestRecord, timeline: Timeline | None) -> list[Header]:
        """Return what a request cost, times in milliseconds."""
        now = monotonic()
        began = now if record.tokenizing_at is None else record.tokenizing_at
        queued = ran = 0.0
        if timeline is not None and timeline.admitted_at is not None and timeline.started_at is not None:
            queued = timeline.started_at - timeline.admitted_at
            ran = max((run.started_at + run.duration_s for run in timeline.runs), default=now) - timeline.started_at
        loaded = None if record.model is None else self.served.loaded_as(record.model)
        device = b"cpu" if loaded is None or loaded.threads else b"gpu"
        return [
            (b"x-compute-type", device + b"+optimized"),
            (b"x-compute-time", _milliseconds(now - began)),
            (b"x-compute-characters", b"%d" % record.characters),
            (b"x-compute-tokens", b"%d" % record.tokens),
            (b"x-total-time", _milliseconds(now - began)),
            (b"x-tokenization-time", _milliseconds(record.tokenized_at - began)),
            (b"x-queue-time", _milliseconds(queued)),
            (b"x-inference-time", _milliseconds(ran)),
        ]

    def _read(self, handler: TaskHandler[Any, Any, Any], form: type[Form], received: Received) -> Call:
        """Read a request of a task.

        Raises:
            ValidationFailed: the body has not this form, the task takes no such inputs, or several models could be meant.
            NotFound: it names no model that does the task.
        """
        with _explained(received.body, form):
            body = parse(form, received.body)
            request = handler.request.model_validate(body.native())
        model = self.served.catalog.for_task(handler, received.path.get("model", body.model))
        return Call(handler, model, request, partial(_write, body))

    def _tokenize(self, received: Received) -> object:
        with _explained(received.body, TokenizeForm):
            form = parse(TokenizeForm, received.body)
        self.served.limits.check_inputs(len(form.listed))
        return tokenized(self._model(received, form.model), form)

    def _decode(self, received: Received) -> object:
        with _explained(received.body, DecodeForm):
            form = parse(DecodeForm, received.body)
        self.served.limits.check_inputs(len(form.ids))
        return decoded(self._model(received, form.model), form)

    def _refuse_embed_all(self, received: Received) -> object:  # noqa: ARG002
        raise ValidationFailed(
            "This server has no embeddings of single tokens: its models pool them to one for each text. Post to /embed."
        )

    def _refuse_embed_sparse(self, received: Received) -> object:  # noqa: ARG002
        raise ValidationFailed("This server has no model with sparse embeddings. Post to /embed for dense ones.")

    def _info(self, received: Received) -> object:
        model = self._model(received, None)
        kind = _kind(model)
        self.served.readiness.check_engine()
        loaded = self.served.loaded_as(model.name)
        assert loaded is not None  # by an engine that is ready
        source = public_source(model.manifest.source)
        precision = loaded.variant.rpartition("-")[2]
        return {
            "model_id": source.checkpoint,
            "model_sha": source.revision,
            "model_dtype": DTYPES.get(precision, precision),
            "served_model_name": model.name,
            "model_type": kind,
            "max_concurrent_requests": None,  # the estimated wait is limited, not their number
            "max_input_length": model.manifest.max_length,
            "max_batch_tokens": loaded.speed.budget_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": self.served.limits.max_inputs,
            "auto_truncate": True,
            "tokenization_workers": None,  # threads that do other work, too
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }

    def _model(self, received: Received, name: str | None) -> Model:
        """Return the model of the path, else that of the body, else the default or only one that a route here leads to.

        Raises:
            NotFound: there is no such model.
            ValidationFailed: there are several, or none, and the request names none.
        """
        catalog = self.served.catalog
        name = received.path.get("model", name)
        if name is not None:
            return catalog.get(name)
        handlers = [TASKS[task] for task, _ in FORMS.values()]
        able = [model for model in catalog if any(handler.serves(model.manifest) for handler in handlers)]
        meant = able if len(able) == 1 else [model for model in able if catalog.is_default(model)]
        if len(meant) != 1:
            names = ", ".join(model.name for model in able or catalog)
            raise ValidationFailed(
                f"Say which model, in the path: /models/NAME{received.scope['path']}. This server has: {names}."
            )
        return meant[0]


def _write(body: Form, predictions: list[Any], record: RequestRecord) -> object:
    record.characters = body.characters()
    return body.written(predictions)


def _kind(model: Model) -> object:
    """Return what this API calls the kind of a model.

    Raises:
        ValidationFailed: it has no name for it.
    """
    labels = model.manifest.labels
    if model.task == "embed":
        return {"embedding": {"pooling": model.manifest.pooling}}
    if model.task not in ("classify", "rerank"):
        raise ValidationFailed(
            f"This model does {model.task}, which this API does not know. GET /v1/models describes it."
        )
    described = {
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return {"classifier" if len(labels) > 1 else "reranker": described}


def _milliseconds(seconds: float) -> bytes:
    return b"%d" % (seconds * 1000)


@contextmanager
def _explained(body: bytes, form: type[BaseModel]) -> Iterator[None]:
    """Turn pydantic's error about a request in a form into one of the catalogue."""
    try:
        yield
    except ValidationError as error:
        explained = explain(error, body, form)
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]["type"]
        if first in ("empty_text", "too_short"):
            raise Empty(explained.message) from None
        raise explained from None
