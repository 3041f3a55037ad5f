"""BentoML: adaptive batching. Served with `bentoml serve bentoml_peer:Classifier`."""

import os

import bentoml
from text_model import TextModel

BATCH = int(os.environ["BATCH"])
# A batch that takes longer than max_latency_ms is answered with 503: the limit is out of reach here.
BATCHING = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": 120000} if BATCH > 1 else {}


@bentoml.service(workers=int(os.environ["WORKERS"]), traffic={"timeout": 120})
class Classifier:
    """Answers batches of texts."""

    def __init__(self) -> None:
        self._model = TextModel()

    @bentoml.api(**BATCHING)
    def classify(self, texts: list[str]) -> list[dict[str, object]]:
        return self._model(texts)
