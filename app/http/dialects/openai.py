"""OpenAI's API of embeddings, with what the servers that follow it take besides: vLLM, NVIDIA NIM, text-embeddings-inference."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.errors import ServiceError
from app.http.api import Api, Call, Inference, Received
from app.http.parsing import parse
from app.tasks import TASKS
from app.tasks.inputs import Request, TextInputs
from app.telemetry.record import RequestRecord

CODES: Final = {
    "unauthorized": "invalid_api_key",
    "not_found": "model_not_found",
    "overloaded": "rate_limit_exceeded",
    "rate_limited": "rate_limit_exceeded",
}
"""What OpenAI calls errors that its clients may tell apart; the others keep their name."""
_CUT: Final = {"START": "left", "END": "right"}


def _not_tokens(value: object) -> object:
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise PydanticCustomError("token_ids", "holds token ids, which depend on the tokenizer; send texts")
    return value


class EmbeddingsRequest(Request):
    """Texts to embed. Unknown keys are ignored; a known one that cannot be followed is an error."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    input: Annotated[TextInputs, BeforeValidator(_not_tokens)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    # vLLM's and text-embeddings-inference's; the values that change nothing here are taken, too.
    normalize: bool | None = Field(None, description="False leaves embeddings as the model gives them; default: true.")
    truncation_side: Literal["left", "right"] | None = None
    truncate_prompt_tokens: Literal[-1] | None = None
    add_special_tokens: Literal[True] | None = None
    use_activation: Literal[True] | None = None
    embed_dtype: Literal["float32"] | None = None
    endianness: Literal["native", "little"] | None = None
    # NIM's and sentence-transformers'.
    input_type: Literal["query", "document", "passage"] | None = None
    prompt_name: str | None = None
    truncate: Literal["NONE", "START", "END"] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the task."""
        given = {
            # As OpenAI's are: its callers compare them by their dot product.
            "normalize": self.normalize is not False,
            "encoding_format": self.encoding_format,
            "dimensions": self.dimensions,
            "input_type": "document" if self.input_type == "passage" else self.input_type,
            "prompt_name": self.prompt_name,
            "truncation": self.truncate != "NONE",
            "truncation_direction": _CUT.get(self.truncate or "", self.truncation_side),
        }
        return {name: value for name, value in given.items() if value is not None}


class OpenAiApi(Api):
    """`POST /v1/embeddings`; `GET /v1/models` has OpenAI's keys, too."""

    name = "openai"

    @property
    def routes(self) -> Sequence[Inference]:
        return [Inference("/v1/embeddings", "Embeddings, as OpenAI's", self.read, EmbeddingsRequest, "embed")]

    def read(self, received: Received) -> Call:
        """Read a request for embeddings.

        Raises:
            ValidationError: the body has not the form of one.
            NotFound, ValidationFailed: it names no model that embeds.
        """
        asked = parse(EmbeddingsRequest, received.body)
        handler = TASKS["embed"]
        model = self.served.catalog.for_task(handler, asked.model)
        request = handler.request.model_validate({"inputs": asked.input, "parameters": asked.parameters})
        return Call(handler, model, request, partial(_write, model.name))

    def error(self, error: ServiceError, request_id: str) -> tuple[int, object]:  # noqa: ARG002 - it is in the header
        # A request that cannot be answered is a 400 there; 422 would be another exception of the client.
        status = 400 if error.status == 422 else error.status
        kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
        message = _in_openai_names(error.message)
        place = re.match(r"\w+", message)
        param = place[0] if place is not None and place[0] in EmbeddingsRequest.model_fields else None
        code = CODES.get(error.error_type, error.error_type)
        return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _in_openai_names(message: str) -> str:
    """Return a message of the task with the keys as they are named here: `input` and, beside it, the parameters."""
    return re.sub(r"^inputs\b", "input", message).removeprefix("parameters: ").replace("parameters.", "")


def _write(model: str, predictions: list[Any], record: RequestRecord) -> object:
    data = [
        {"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(predictions)
    ]
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": record.tokens, "total_tokens": record.tokens},
    }


API: Final = OpenAiApi
