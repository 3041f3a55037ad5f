"""A container of Amazon SageMaker: `GET /ping`, and `POST /invocations` as SageMaker's Hugging Face toolkit answers it.

SageMaker hands a caller's body and custom attributes over as they are; it does not hand over a path or an API key.
"""

import re
from collections.abc import Sequence
from typing import Final

from app.http.api import Api, Call, Inference, Received, Route, Utility
from app.http.pipelines.body import PipelineBody
from app.http.pipelines.call import read_call

CUSTOM_ATTRIBUTES: Final = "x-amzn-sagemaker-custom-attributes"
_MODEL: Final = re.compile(r"(?:^|[,;\s])model=([^,;\s]+)")


class SageMakerApi(Api):
    """`POST /invocations`."""

    name = "sagemaker"

    @property
    def routes(self) -> Sequence[Route]:
        return [
            Inference("/invocations", "The pipeline of the model that fits the inputs", self.read, PipelineBody),
            Utility("GET", "/ping", "Whether requests should be sent here", self.ping, is_open=True),
        ]

    def read(self, received: Received) -> Call:
        """Read a request to a pipeline, whose model may be named by a custom attribute. Raises what `read_call` does."""
        named = _MODEL.search(received.header(CUSTOM_ATTRIBUTES) or "")
        return read_call(self.served.catalog, received, "pipeline", name=named[1] if named else None)

    def ping(self, received: Received) -> None:  # noqa: ARG002
        """Say that requests should be sent here.

        Raises:
            NotReady, EngineLost: retry later.
        """
        self.served.readiness.check()


API: Final = SageMakerApi
