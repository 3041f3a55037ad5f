"""The Open Inference Protocol, version 2, of KServe and Triton, over HTTP: texts and results are tensors."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final

from pydantic import Field

from app import __version__
from app.errors import InvalidJson, NotFound, ValidationFailed
from app.http.api import Api, Call, Inference, Raw, Received, Route, Utility
from app.http.dialects.open_inference.forms import FORMS, Form, Output, form_for
from app.http.dialects.open_inference.tensors import (
    HEADER_LENGTH,
    MAX_TENSORS,
    NULL_IS_NONE,
    InputTensor,
    Lenient,
    OutputTensor,
    WantedOutput,
    array,
    read_texts,
    write_tensors,
)
from app.http.parsing import parse
from app.tasks.base import Model
from app.telemetry.record import RequestRecord

VERSION: Final = "1"
"""The version of every model."""
PLATFORM: Final = "onnxruntime_onnx"
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "parameters")
SCHEDULING: Final = frozenset(
    {"binary_data_output", "headers", "priority", "sequence_end", "sequence_id", "sequence_start", "timeout"}
)
"""Parameters of the protocol itself; all but the first say how a server is to schedule a request, and change no answer."""
RESERVED: Final = "triton_"
CONFIG_TYPES: Final = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "BOOL": "TYPE_BOOL"}


class InferRequest(Lenient):
    """Tensors of texts, and which tensors to answer."""

    id: str | int | None = None
    inputs: list[InputTensor] = Field(max_length=MAX_TENSORS)
    outputs: list[WantedOutput] | None = Field(None, max_length=MAX_TENSORS, description="Default: all.")
    parameters: Annotated[dict[str, Any], NULL_IS_NONE] = Field(
        {}, description="Those of the task, and `binary_data_output`."
    )


class IndexRequest(Lenient):
    """Which models to list."""

    ready: bool = False


class OpenInferenceApi(Api):
    """`/v2`."""

    name = "open-inference"

    @property
    def routes(self) -> Sequence[Route]:
        model = "/v2/models/{model}"
        version = f"{model}/versions/{{version}}"
        return [
            Utility("GET", "/v2", "The server's name, version and extensions", self._server),
            Utility("GET", "/v2/health/live", "Whether the process responds", lambda _: {"live": True}, is_open=True),
            Utility("GET", "/v2/health/ready", "Whether requests should be sent here", self._ready, is_open=True),
            Utility("POST", "/v2/repository/index", "Every model and its state", self._index),
            *(
                route
                for path in (model, version)
                for route in (
                    Utility("GET", path, "A model's tensors", self._metadata),
                    Utility("GET", f"{path}/ready", "Whether a model is ready", self._model_ready),
                    Utility("GET", f"{path}/config", "A model's tensors, as Triton configures them", self._config),
                    Inference(f"{path}/infer", "Results as tensors for texts as tensors", self._infer, InferRequest),
                )
            ),
        ]

    def _server(self, _: Received) -> object:
        return {"name": "bert-inference-service", "version": __version__, "extensions": EXTENSIONS}

    def _ready(self, _: Received) -> object:
        self.served.readiness.check()
        return {"ready": True}

    def _model_ready(self, received: Received) -> object:
        model = self._model(received)
        self.served.readiness.check()
        return {"name": model.name, "ready": True}

    def _index(self, received: Received) -> object:
        asked = parse(IndexRequest, received.body or b"{}")
        is_ready = self.served.readiness.engine == "ready"
        state, reason = ("READY", "") if is_ready else ("UNAVAILABLE", "the engine is starting")
        return [
            {"name": model.name, "version": VERSION, "state": state, "reason": reason}
            for model in self.served.catalog
            if is_ready or not asked.ready
        ]

    def _metadata(self, received: Received) -> object:
        model = self._model(received)
        inputs, outputs = _described(FORMS[model.task], "datatype", "shape", {})
        return {
            "name": model.name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": inputs,
            "outputs": outputs,
        }

    def _config(self, received: Received) -> object:
        model = self._model(received)
        inputs, outputs = _described(FORMS[model.task], "data_type", "dims", CONFIG_TYPES)
        # Batches are the server's own, so that no dimension is added to those of the tensors.
        return {"name": model.name, "platform": PLATFORM, "max_batch_size": 0, "input": inputs, "output": outputs}

    def _model(self, received: Received) -> Model:
        """Return the model of a path.

        Raises:
            NotFound: there is none of that name or version.
        """
        model = self.served.catalog.get(received.path["model"])
        if received.path.get("version", VERSION) != VERSION:
            raise NotFound(f"There is no such version of the model. Every model of this server has version {VERSION}.")
        return model

    def _infer(self, received: Received) -> Call:
        """Read tensors.

        Raises:
            NotFound: there is no such model.
            InvalidJson: the body is cut off.
            ValidationError, ValidationFailed: the tensors or parameters are not such as this model takes.
        """
        model = self._model(received)
        head, rest = _split(received.body, received.header(HEADER_LENGTH))
        request = parse(InferRequest, head)
        texts = read_texts(request.inputs, rest)
        handler, form = form_for(model, texts)
        wanted = _wanted(request, form)
        parameters = {
            key: value
            for key, value in request.parameters.items()
            if key not in SCHEDULING and not key.startswith(RESERVED)
        }
        for name in form.parameters:
            if name in texts:
                parameters[name] = texts.pop(name)
        for name, value in form.fixed.items():
            if name in parameters:
                raise ValidationFailed(
                    f"parameters.{name}: is not a parameter here, where answers are tensors; remove it."
                )
            parameters[name] = value
        native = handler.request.model_validate({"inputs": form.make(texts), "parameters": parameters})
        head_of_answer: dict[str, object] = {"model_name": model.name, "model_version": VERSION}
        if request.id is not None:
            head_of_answer["id"] = request.id
        return Call(handler, model, native, partial(_write, head_of_answer, wanted))


def _described(
    form: Form, type_key: str, shape_key: str, names: Mapping[str, str]
) -> tuple[list[object], list[object]]:
    """Return the inputs and outputs of a task. `names` has what datatypes are called where it is not the protocol's name."""

    def described(name: str, datatype: str, rank: int) -> dict[str, object]:
        return {"name": name, type_key: names.get(datatype, datatype), shape_key: [-1] * rank}

    inputs = [described(name, "BYTES", 1) | {"optional": name not in form.required} for name in form.names]
    return [*inputs], [described(name, output.datatype, output.rank) for name, output in form.outputs.items()]


def _split(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """Return the JSON of a body and the bytes that follow it."""
    if length is None:
        return body, b""
    if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > len(body):
        raise InvalidJson(
            "Inference-Header-Content-Length should be the length of the JSON in bytes, and at most that of the body."
        )
    return body[: int(length)], body[int(length) :]


Wanted = Sequence[tuple[str, Output, bool]]
"""The name of each output of an answer, how to make it, and whether it is binary."""


def _wanted(request: InferRequest, form: Form) -> Wanted:
    is_binary = request.parameters.get("binary_data_output", False)
    if not isinstance(is_binary, bool):
        raise ValidationFailed("parameters.binary_data_output: should be true or false.")
    if not request.outputs:
        return [(name, output, is_binary) for name, output in form.outputs.items()]
    wanted = []
    for i, output in enumerate(request.outputs):
        asked = output.parameters
        if output.name not in form.outputs:
            raise ValidationFailed(f"outputs[{i}].name: the outputs of this model are {', '.join(form.outputs)}.")
        if any(output.name == other.name for other in request.outputs[:i]):
            raise ValidationFailed(f"outputs[{i}].name: ask for each output once.")
        if asked.classification:
            raise ValidationFailed(
                f"outputs[{i}].parameters.classification: this server has no such extension; use the output label and "
                "parameters.top_k."
            )
        if asked.shared_memory_region is not None:
            raise ValidationFailed(
                f"outputs[{i}].parameters: this server has no shared memory; answers are in the body."
            )
        binary = is_binary if asked.binary_data is None else asked.binary_data
        wanted.append((output.name, form.outputs[output.name], binary))
    return wanted


def _write(head: dict[str, object], wanted: Wanted, predictions: list[Any], _: RequestRecord) -> Raw:
    return write_tensors(
        head,
        [
            OutputTensor(name, output.datatype, array(output.datatype, output.values(predictions)), is_binary)
            for name, output, is_binary in wanted
        ],
    )


API: Final = OpenInferenceApi
