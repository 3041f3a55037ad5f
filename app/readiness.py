"""Whether this process takes requests. Read and changed on the event loop only."""

from typing import Literal

from app.errors import EngineLost, NotReady

EngineState = Literal["starting", "ready", "lost"]
State = Literal["starting", "ready", "draining", "lost"]


class Readiness:
    """What `/readyz` tells, and what every inference request asks first.

    They differ while the server drains: it asks for no more requests, and answers those that still come.
    """

    def __init__(self) -> None:
        self.engine: EngineState = "starting"
        self.is_draining = False

    @property
    def state(self) -> State:
        """The one word for it."""
        return "draining" if self.is_draining else self.engine

    def check(self) -> None:
        """Pass if more requests should be sent here.

        Raises:
            NotReady: the service is starting or stopping. Retry later.
            EngineLost: the engine failed. Retry later.
        """
        if self.is_draining:
            raise NotReady("The service is shutting down. Retry in a few seconds.")
        self.check_engine()

    def check_engine(self) -> None:
        """Pass if a request that is here can be answered.

        Raises:
            NotReady: the service is starting. Retry later.
            EngineLost: the engine failed. Retry later.
        """
        if self.engine == "lost":
            raise EngineLost("The engine was lost and is being replaced. Retry in a few seconds.")
        if self.engine == "starting":
            raise NotReady("The service is loading its models. Retry in a few seconds.")
