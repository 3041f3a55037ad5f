"""FastAPI and no batching, which is how most BERTs are put behind HTTP.

The endpoint calls the model on the event loop: a run takes every core that its process has, so that another thread would
only add a switch.
"""

import os
from multiprocessing import Process

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from text_model import TextModel

app = FastAPI()
model: TextModel = TextModel() if __name__ != "__main__" else None


class Request(BaseModel):
    """One text."""

    text: str


class Response(BaseModel):
    """Its best label."""

    label: str
    score: float


@app.post("/classify")
async def classify(request: Request) -> Response:
    """Classify a text."""
    [answer] = model([request.text])
    return Response(**answer)


if __name__ == "__main__":
    # As uvicorn's own workers, on one socket; but those are killed where an import keeps them from answering for 5 seconds.
    config = uvicorn.Config("fastapi_peer:app", port=int(os.environ["PORT"]), access_log=False)
    sockets = [config.bind_socket()]
    workers = [Process(target=uvicorn.Server(config).run, args=(sockets,)) for _ in range(int(os.environ["WORKERS"]))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
