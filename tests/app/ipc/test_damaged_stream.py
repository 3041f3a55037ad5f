"""Damage ends the connection that it came by, and nothing else."""

import asyncio
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from app.engine.admission import Admission
from app.engine.callers import Caller
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, Serving, Speed
from app.engine.rates import Bucket
from app.errors import RateLimited
from app.ipc.codec import Hello, Statistics, encode
from app.ipc.engine_server import EngineServer
from app.ipc.frames import HEADER, LARGEST, frame
from app.ipc.remote_engine import RemoteEngine

WITHIN_S = 20.0
DAMAGE = [frame(b"no message"), frame(b""), HEADER.pack(LARGEST + 1)]


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_engine_ends_the_connection_and_serves_others(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"

    async def main() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        server = EngineServer(LocalEngine(), Serving())
        async with asyncio.timeout(WITHIN_S):
            serving = asyncio.create_task(server.serve(path))
            while not path.exists():  # noqa: ASYNC110 - it listens in this iteration of the loop or in the next
                await asyncio.sleep(0)
            reader, writer = await asyncio.open_unix_connection(str(path))
            other, other_writer = await asyncio.open_unix_connection(str(path))
            assert await other.read(1 << 16)
            writer.write(damage)
            while await reader.read(1 << 16):
                pass  # its hello and statistics, until the end
            assert await other.read(1)  # statistics still arrive
            for one in (writer, other_writer):
                one.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        assert [type(error).__name__ for error in reported] == ["DamagedFrame"]

    asyncio.run(main())


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_front_end_loses_the_engine_and_connects_again(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "engine.sock"
    caller = Caller("one", tokens_per_second=1.0, burst=1.0)
    loaded = Loaded(
        identity="a1", variant="cpu-fp32", provider="CPU", threads=[1], lanes=1, speed=Speed(96, 1e-5, [(8, 1e-3)])
    )

    async def main() -> None:
        events: list[str] = []
        is_connected, is_lost, is_connected_again = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def prepare(key: str) -> None:
            pytest.fail(f"no bundle was to be prepared: {key}")

        async def connected(serving: Serving) -> None:
            assert serving.models == {"sentiment": loaded}
            with nullcontext() if is_connected.is_set() else pytest.raises(RateLimited):
                client.check_rate(caller)  # the engine that comes next knows of no debt
            events.append("connected")
            (is_connected_again if is_connected.is_set() else is_connected).set()

        def lost() -> None:
            events.append("lost")
            is_lost.set()

        client = RemoteEngine(
            path,
            admission=Admission(max_queue_s=1, timeout_s=1),
        )

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not is_connected.is_set():
                writer.write(frame(encode(Statistics({}, {"one": Bucket(-1000.0, time.monotonic(), 1.0)}))))
            writer.write(frame(encode(Hello(Serving({"sentiment": loaded}), 1))))
            if not is_lost.is_set():
                await is_connected.wait()
                writer.write(damage)
            await reader.read()
            writer.close()

        async with asyncio.timeout(WITHIN_S):
            listening = await asyncio.start_unix_server(serve, str(path))
            connection = asyncio.create_task(client.stay_connected(prepare, connected, lost))
            await is_connected_again.wait()
            assert events == ["connected", "lost", "connected"]
            connection.cancel()
            await asyncio.gather(connection, return_exceptions=True)
            listening.close()
            await listening.wait_closed()

    asyncio.run(main())
    assert "DamagedFrame" in caplog.text
