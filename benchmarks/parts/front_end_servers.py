"""HTTP servers without a model behind them, for `benchmarks.parts.front_end`, on one core.

    python -m benchmarks.parts.front_end_servers KIND BUNDLE PORT CORE

- `asgi`: reads the body and answers with constant bytes; no route, no validation. What uvicorn leaves to be reached.
- `fastapi-bare`: an idiomatic FastAPI route that validates and answers; no tokenizer.
- `fastapi`: the same with the work of this service: tokenizer, engine, scores.
- `ours`: this service, whole but for the engine.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from tokenizers import Tokenizer

from app.bundle.files import load_bundle
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.callers import Caller
from app.engine.messages import Loaded, Serving, Speed, Timeline
from app.http.listening.ports import Port
from app.http.listening.tcp import bind
from app.processes.front_end import FrontEnd
from app.settings import Settings
from app.telemetry.metrics import Metrics
from benchmarks.batches import sequence
from benchmarks.load import HOST

LABELS: Final = ("NEGATIVE", "POSITIVE")
LOADED: Final = Loaded(identity="", variant="none", provider="none", threads=(), lanes=1, speed=Speed(1, 0.0, ()))
LOGITS: Final = np.array([-1.0, 2.0], np.float32)


class FakeEngine:
    """Answers at once, and every sequence alike."""

    def __init__(self, logits: SequenceResult) -> None:
        self._logits = logits

    async def infer(
        self,
        model: str,  # noqa: ARG002
        sequences: Sequence[TokenSequence],
        timeline: Timeline | None = None,  # noqa: ARG002
        caller: Caller | None = None,  # noqa: ARG002
    ) -> list[SequenceResult]:
        return [self._logits] * len(sequences)

    def check_rate(self, caller: Caller) -> None:
        pass

    def check(self, model: str, sequences: int, caller: Caller | None = None) -> None:
        pass


class Request(BaseModel):
    """What this service's clients send."""

    model: str | None = None
    inputs: str | list[str]


class Prediction(BaseModel):
    """A label and its score."""

    label: str
    score: float


class Response(BaseModel):
    """What they get."""

    model: str
    predictions: list[list[Prediction]]


async def asgi(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
    """Answer with constant bytes."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = b'{"model":"demo","predictions":[[{"label":"POSITIVE","score":0.95}]]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def fastapi_application(bundle: Path, *, does_work: bool) -> FastAPI:
    """Return a FastAPI application with one route."""
    app = FastAPI()
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    engine = FakeEngine(LOGITS)

    @app.post("/v1/classify")
    async def classify(request: Request) -> Response:
        texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
        if does_work:
            encoded = tokenizer.encode_batch(texts)
            logits = np.array(await engine.infer("demo", [sequence(one.ids, one.type_ids) for one in encoded]))
        else:
            logits = np.array([LOGITS] * len(texts))
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = exponentials / exponentials.sum(axis=1, keepdims=True)
        return Response(
            model="demo",
            predictions=[
                [Prediction(label=label, score=float(score)) for label, score in zip(LABELS, row, strict=True)]
                for row in scores
            ],
        )

    return app


async def serve_ours(bundle: Path, port: int) -> None:
    """Serve the project's front end with an engine that answers at once."""
    found = load_bundle(bundle)
    settings = Settings(access_log=False)
    front_end = FrontEnd(settings, [found], FakeEngine(LOGITS), Metrics(CollectorRegistry()))
    front_end.engine_found(Serving({found.name: replace(LOADED, identity=found.identity)}))
    await front_end.server.serve_on([Port("main", bind([HOST], port), "")])


def main(kind: str, bundle: Path, port: int, core: int) -> None:
    """Serve until SIGTERM."""
    os.sched_setaffinity(0, {core})
    if kind == "ours":
        uvloop.run(serve_ours(bundle, port))
        return
    app = asgi if kind == "asgi" else fastapi_application(bundle, does_work=kind == "fastapi")
    uvicorn.run(app, host=HOST, port=port, access_log=False, log_level="warning", lifespan="off")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
