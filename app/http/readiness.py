"""Whether this process takes requests. Read and changed on the event loop only."""

from collections.abc import Sequence
from typing import Literal

from app.errors import EngineLost, NotReady

EngineState = Literal["starting", "ready", "lost"]
State = Literal["starting", "ready", "draining", "lost"]


class Readiness:
    """The states that `/readyz` reports and that inference requests are checked against.

    During a shutdown they differ: `/readyz` fails, but requests that still arrive are answered.
    """

    def __init__(self) -> None:
        self.engine: EngineState = "starting"
        self.is_draining = False
        self.failed_models: Sequence[str] = ()
        """The models that are not served as their bundles cannot be loaded, while others are."""

    @property
    def state(self) -> State:
        """The state that `/readyz` reports."""
        return "draining" if self.is_draining else self.engine

    def check(self) -> None:
        """Return if more requests should be sent here.

        Raises:
            NotReady: the service is starting or stopping. Retry later.
            EngineLost: the engine failed. Retry later.
        """
        if self.is_draining:
            raise NotReady
        self.check_engine()

    def check_engine(self) -> None:
        """Return if a request that has arrived can be answered.

        Raises:
            NotReady: the service is starting. Retry later.
            EngineLost: the engine failed. Retry later.
        """
        if self.engine == "lost":
            raise EngineLost
        if self.engine == "starting":
            raise NotReady("The service is loading its models, or waits for its first one. Retry in a few seconds.")
