# noqa: INP001 - deploy/ is no package
"""The service as a Ray Serve application: `serve run deploy.ray.service:build`.

Ray starts, spreads, scales and replaces the replicas and routes requests to them. What a replica is, is in `replica`.
Runs wherever the application is deployed from; reads the settings there to refuse what is wrong before any replica starts.
"""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from app.settings import Settings
from deploy.ray.replica import Replica

NAME: Final = "bert"
# The engine refuses what would wait too long, and batches what it has: requests that Ray held back would do neither.
MAX_ONGOING_REQUESTS: Final = 10_000
# A replica that lost its engine refuses everything, and is replaced after the third check that says so.
HEALTH_CHECK_PERIOD_S: Final = 1.0
DRAIN_CHECK_PERIOD_S: Final = 0.2


class Options(BaseModel):
    """What Ray has to know: `serve run deploy.ray.service:build max_replicas=8`, or `args` in a configuration file.

    All else is a setting of the server, BERT_<NAME> in the environment of the replicas.
    """

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=1, description="replicas that are always there")
    max_replicas: int = Field(4, ge=1, description="most replicas")
    target_ongoing_requests: float = Field(
        32, gt=0, description="requests in hand per replica that the autoscaler aims at: those of a batch, twice"
    )
    upscale_delay_s: float = Field(30, ge=0, description="how long there must be more before replicas are added")
    downscale_delay_s: float = Field(600, ge=0, description="how long there must be less before replicas are removed")
    cpus: float = Field(1, ge=0, description="CPUs of a replica, and the threads of one run")
    gpus: float = Field(0, ge=0, description="GPUs of a replica; half a GPU lets two share one")


def build(options: Options) -> serve.Application:
    """Return the application.

    Raises:
        ValidationError: a setting or an option is wrong.
    """
    settings = Settings()
    deployment = serve.deployment(
        name=NAME,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas,
            "target_ongoing_requests": options.target_ongoing_requests,
            "upscale_delay_s": options.upscale_delay_s,
            "downscale_delay_s": options.downscale_delay_s,
        },
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        graceful_shutdown_wait_loop_s=DRAIN_CHECK_PERIOD_S,
        graceful_shutdown_timeout_s=settings.shutdown_timeout_s,
        logging_config={"enable_access_log": False},  # the service writes its own, with tokens and without texts
    )
    return deployment(serve.ingress()(Replica)).bind(cpus=options.cpus, gpus=options.gpus)
