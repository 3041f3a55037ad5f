"""The front ends of an engine's process, as its repository sees them."""

import asyncio
from typing import Final

from app.bundle.files import Bundle
from app.engine.messages import Serving
from app.errors import BundleError
from app.ipc.engine_server import EngineServer
from app.processes.models.small_files import SmallFiles
from app.processes.supervision.reports import ModelsServed, SupervisorLink


class RemoteFrontEnds:
    """They are other processes, each with a connection to the server."""

    def __init__(self, server: EngineServer, supervisor: SupervisorLink, files: SmallFiles) -> None:
        self._server: Final = server
        self._supervisor: Final = supervisor
        self._files: Final = files

    async def prepare(self, bundle: Bundle) -> None:
        await asyncio.to_thread(self._files.keep, bundle)
        error_text = await self._server.prepare(bundle.key)
        if error_text is not None:
            raise BundleError(self._files.of_original(error_text, bundle))

    async def switch(self, serving: Serving) -> None:
        await self._server.switch(serving)
        self._supervisor.report(ModelsServed(serving))
        await asyncio.to_thread(self._files.keep_only, serving.keys)
