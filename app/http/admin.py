"""`/admin/models`: which models are served, for those who operate the server. It has a key of its own, and is off without one."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import ClassVar

from app.engine.messages import ModelState
from app.engine.protocols import Administration
from app.errors import BadBundle, NoRoom, NotReady
from app.http.api import Api, Received, Served, Utility
from app.http.asgi import CHANGES
from app.http.keys import Keys
from app.tasks.catalog import Catalog


class AdminApi(Api):
    """Loads and unloads models. What is begun goes on to its end if the caller goes away."""

    name: ClassVar[str] = "admin"
    needs_scheme = True

    def __init__(self, served: Served, keys: Keys, administration: Callable[[], Administration | None]) -> None:
        """Take the keys that open it, and who does what is asked for, if anyone yet."""
        limits = replace(served.limits, keys=keys)
        # Without models: those of now would stay in memory when others are served.
        super().__init__(Served(Catalog([]), served.loaded_as, served.readiness, limits))
        self._found = administration

    @property
    def routes(self) -> Sequence[Utility]:
        of_one = "/admin/models/{name}/"
        return (
            Utility("GET", "/admin/models", "The state of every model", self._states),
            Utility("POST", of_one + "load", "Serve a bundle as it is in the models folder now", self._load),
            Utility("POST", of_one + "unload", "Serve a model no longer", self._unload),
        )

    async def _states(self, received: Received) -> object:  # noqa: ARG002
        return {"models": [asdict(state) for state in await self._administration().states()]}

    async def _load(self, received: Received) -> object:
        return await self._changed(received, self._administration().load)

    async def _unload(self, received: Received) -> object:
        return await self._changed(received, self._administration().unload)

    async def _changed(self, received: Received, change: Callable[[str], Awaitable[ModelState]]) -> object:
        name = received.path["name"]
        try:
            state = await change(name)
        except (BadBundle, NoRoom):
            received.scope[CHANGES] = name  # only a name that there is comes into the log
            raise
        received.scope[CHANGES] = name
        return asdict(state)

    def _administration(self) -> Administration:
        found = self._found()
        if found is None:
            raise NotReady("The service is loading its models. Retry in a few seconds.")
        return found
