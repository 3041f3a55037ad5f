"""mosec: a Rust front end that batches for Python workers."""

import os
import sys
from typing import Any

from mosec import Server, Worker
from text_model import TextModel


class Classifier(Worker):
    """Answers batches of `{"text": ...}`."""

    def __init__(self) -> None:
        self._model = TextModel()

    def forward(self, data: Any) -> Any:  # noqa: ANN401
        """Answer a list of documents, or one where the batch size is 1."""
        if isinstance(data, list):
            return self._model([document["text"] for document in data])
        return self._model([data["text"]])[0]


if __name__ == "__main__":
    sys.argv += ["--port", os.environ["PORT"], "--timeout", "120000", "--log-level", "warning"]
    server = Server()
    server.append_worker(
        Classifier, num=int(os.environ["WORKERS"]), max_batch_size=int(os.environ["BATCH"]), max_wait_time=10
    )
    server.run()
