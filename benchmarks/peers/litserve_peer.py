"""LitServe: FastAPI in front, batches over queues to model processes."""

import os

import litserve
from text_model import TextModel


class Classifier(litserve.LitAPI):
    """Answers batches of `{"text": ...}`."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._model = TextModel()

    def decode_request(self, request: dict[str, str]) -> str:
        return request["text"]

    def predict(self, texts: list[str] | str) -> object:
        return self._model(texts) if isinstance(texts, list) else self._model([texts])[0]

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        return output


if __name__ == "__main__":
    batch = int(os.environ["BATCH"])
    api = Classifier(max_batch_size=batch, batch_timeout=0.01 if batch > 1 else 0.0, api_path="/classify")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ["WORKERS"]), timeout=120, track_requests=False
    )
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False, log_level="warning")
