"""Reranking as Cohere (`/v1`, `/v2`) and Jina (`/v1`) have it, and the servers that follow them: vLLM and Infinity."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from app.errors import ServiceError, ValidationFailed
from app.http.api import Api, Call, Inference, Received
from app.http.asgi import error_document
from app.http.native import NativeApi
from app.http.parsing import parse
from app.tasks import TASKS
from app.tasks.inputs import MAX_INPUTS, AnyText, Request, Text
from app.tasks.rerank import RerankHandler, RerankRequest
from app.telemetry.record import RequestRecord


def _as_object(document: object) -> object:
    if isinstance(document, str):
        return {"text": document}
    if not isinstance(document, dict):
        raise PydanticCustomError("not_a_document", 'should be a text or {"text": ...}')
    return document


class Document(Request):
    """A text to rank. Its other keys come back with it."""

    model_config = ConfigDict(extra="allow")

    text: AnyText


class DocumentsRequest(Request):
    """A query, and documents to rank by it. Unknown keys are ignored; a known one that cannot be followed is an error."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    query: Text
    documents: Annotated[
        list[Annotated[Document, BeforeValidator(_as_object)]], Field(min_length=1, max_length=MAX_INPUTS)
    ]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool | None = None
    # Jina's, then Infinity's.
    truncation: bool | None = None
    raw_scores: bool | None = None
    # Cohere's and vLLM's; the values that change nothing here are taken.
    max_tokens_per_doc: int | None = Field(None, description="At least what the model takes: a text is cut there.")
    max_chunks_per_doc: Literal[1] | None = None
    rank_fields: tuple[Literal["text"]] | None = None
    relevant_spans: None = None
    max_tokens_per_query: Literal[0] | None = None
    truncate_prompt_tokens: Literal[-1] | None = None
    use_activation: Literal[True] | None = None
    instruction: None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the task."""
        return {
            "top_n": self.top_n,
            "return_documents": bool(self.return_documents),
            # 0 to 1, as of both originals, whatever the checkpoint says.
            "function_to_apply": "none" if self.raw_scores else "sigmoid",
            "truncation": self.truncation is not False,
        }


class DocumentsRanker(RerankHandler):
    """The task; its errors name texts as they are named here."""

    place = "documents[{1}] with the query"


RANKER: Final = DocumentsRanker()


class RerankApi(Api):
    """`POST /v1/rerank`, which also takes native requests, and `POST /v2/rerank`."""

    name = "rerank"

    @property
    def routes(self) -> Sequence[Inference]:
        summary = "Documents by relevance, as Cohere's and Jina's"
        return [
            Inference(
                "/v1/rerank", f"{summary}, for a body without `inputs`", self.read_v1, DocumentsRequest, "rerank"
            ),
            Inference("/v2/rerank", summary, partial(self.read, "2"), DocumentsRequest, "rerank"),
        ]

    def read_v1(self, received: Received) -> Call:
        """Read a request in either form of this path.

        Raises:
            ValidationError, NotFound, ValidationFailed: as `read`.
        """
        try:
            call = NativeApi(self.served).read(TASKS["rerank"], received)
        except ValidationError as error:
            if _lacks_inputs(error):
                return self.read("1", received)
            raise
        return replace(call, api=NativeApi.name)

    def read(self, version: str, received: Received) -> Call:
        """Read a request in the form of a version.

        Raises:
            ValidationError: the body has not its form.
            NotFound, ValidationFailed: it names no model that reranks, or asks for what the model does not do.
        """
        asked = parse(DocumentsRequest, received.body)
        model = self.served.catalog.for_task(RANKER, asked.model)
        longest = model.manifest.max_length
        if asked.max_tokens_per_doc is not None and asked.max_tokens_per_doc < longest:
            raise ValidationFailed(
                f"max_tokens_per_doc: documents are cut where query and document reach {longest} tokens together, and "
                f"nowhere else. Remove it, or ask for at least {longest}."
            )
        inputs = {"query": asked.query, "texts": [document.text for document in asked.documents]}
        request = RerankRequest.model_validate({"inputs": inputs, "parameters": asked.parameters})
        return Call(RANKER, model, request, partial(_write, asked, version, model.name))

    def error(self, error: ServiceError, request_id: str) -> tuple[int, object]:
        # Native callers read `error`, Cohere's clients `message`, Jina's `detail`; an error may come before the form is known.
        document = error_document(error, request_id)
        return error.status, document | {"message": error.message, "detail": error.message}


def _lacks_inputs(error: ValidationError) -> bool:
    """Return whether a body has no `inputs`, which a native request has. The many problems of a hostile body are not listed."""
    return error.error_count() <= MAX_INPUTS and any(
        problem["type"] == "missing" and problem["loc"] == ("inputs",)
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    )


def _write(asked: DocumentsRequest, version: str, model: str, predictions: list[Any], record: RequestRecord) -> object:
    [ranked] = predictions
    results = [{"index": one["index"], "relevance_score": one["score"]} for one in ranked]
    if asked.return_documents:
        for result in results:
            result["document"] = asked.documents[result["index"]].model_dump()
    return {
        "id": record.request_id,
        "model": model,
        "results": results,
        # Jina's, and Cohere's.
        "usage": {"prompt_tokens": record.tokens, "total_tokens": record.tokens},
        "meta": {
            "api_version": {"version": version},
            "tokens": {"input_tokens": record.tokens, "output_tokens": 0},
        },
    }


API: Final = RerankApi
