"""What is left of a request whose connection was watched while it waited."""

import asyncio
import weakref
from typing import Any

from app.http.disconnects import Disconnects
from tests.support import uncollected


class Connection:
    """Whose caller stays."""

    def __init__(self) -> None:
        self.is_watched = asyncio.Event()

    async def receive(self) -> Any:
        self.is_watched.set()
        await asyncio.Event().wait()


def test_nothing_is_left_for_the_garbage_collector() -> None:
    """Its rounds are rare in a server, and a connection with TLS has 60 KiB."""

    async def wait() -> "weakref.ref[Connection]":
        connection = Connection()
        answer = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(Disconnects().unless_gone(answer, connection.receive))
        await connection.is_watched.wait()
        answer.set_result("the answer")
        assert await waiting == "the answer"
        return weakref.ref(connection)

    async def check() -> None:
        left = await asyncio.create_task(wait())
        for _ in range(3):  # until what was cancelled has ended
            await asyncio.sleep(0)
        assert left() is None

    with uncollected():
        asyncio.run(check())
