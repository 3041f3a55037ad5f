"""The hosted Hugging Face Inference API, as the clients `huggingface_hub` and `@huggingface/inference` use it.

A client's URL is that of a model, `/models/{model}`, or that of the server.
"""

from collections.abc import Sequence
from typing import Final

from app.http.api import Api, Call, Inference, Received, Route, Utility
from app.http.pipelines.body import PipelineBody
from app.http.pipelines.call import read_call


class HuggingFaceApi(Api):
    """`POST /models/{model}` and `POST /`."""

    name = "huggingface"

    @property
    def routes(self) -> Sequence[Route]:
        return [
            Inference("/", "The pipeline of the model that fits the inputs", self.read, PipelineBody),
            Inference("/models/{model}", "The pipeline of a model", self.read, PipelineBody),
            Inference("/models/{model}/pipeline/{task}", "A pipeline of a model", self.read, PipelineBody),
            Utility(
                "GET", "/models/{model}/health", "Whether requests for this model should be sent here", self.health
            ),
        ]

    def read(self, received: Received) -> Call:
        """Read a request to a pipeline. Raises what `read_call` does."""
        path = received.path
        return read_call(self.served.catalog, received, "hosted", name=path.get("model"), pipeline=path.get("task"))

    def health(self, received: Received) -> object:
        """Say that requests should be sent here.

        Raises:
            NotFound: there is no such model.
            NotReady, EngineLost: retry later.
        """
        self.served.catalog.get(received.path["model"])
        self.served.readiness.check()
        return {"status": self.served.readiness.state}


API: Final = HuggingFaceApi
