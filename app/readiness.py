"""Whether this process takes requests: starting, ready, draining or lost. Used on the event loop only."""

from typing import Literal

from app.errors import EngineLost, NotReady

State = Literal["starting", "ready", "draining", "lost"]


class Readiness:
    """The state that `/readyz` reports and that every inference request checks first."""

    def __init__(self) -> None:
        self.state: State = "starting"

    def check(self) -> None:
        """Pass when ready.

        Raises:
            NotReady: the service is starting or stopping. Retry later.
            EngineLost: the engine failed. Retry later.
        """
        if self.state == "ready":
            return
        if self.state == "lost":
            raise EngineLost("The engine was lost and is being replaced. Retry in a few seconds.")
        doing = "loading its models" if self.state == "starting" else "shutting down"
        raise NotReady(f"The service is {doing}. Retry in a few seconds.")
