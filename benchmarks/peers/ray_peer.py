"""Ray Serve: an HTTP proxy in front of replicas that batch."""

import os
import signal

import ray
from ray import serve
from starlette.requests import Request
from text_model import TextModel

BATCH = int(os.environ["BATCH"])
WORKERS = int(os.environ["WORKERS"])


@serve.deployment(
    num_replicas=WORKERS,
    max_ongoing_requests=max(4, 2 * BATCH),
    ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": os.environ["THREADS"]}}},
)
class Classifier:
    """Answers `{"text": ...}`, in batches."""

    def __init__(self) -> None:
        self._model = TextModel()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.01 if BATCH > 1 else 0.0)
    async def classify(self, texts: list[str]) -> list[dict[str, object]]:
        """Run a batch."""
        return self._model(texts)

    async def __call__(self, request: Request) -> dict[str, object]:
        return await self.classify((await request.json())["text"])


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=os.cpu_count())
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Classifier.bind(), route_prefix="/classify")  # type: ignore[attr-defined]
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
