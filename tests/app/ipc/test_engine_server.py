"""The engine listens whenever it can."""

import asyncio
from pathlib import Path

import pytest

from app.engine.local import LocalEngine
from app.engine.messages import Serving
from app.ipc.engine_server import EngineServer

WITHIN_S = 20.0


def test_an_engine_that_cannot_listen_tries_again_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.ipc.engine_server.STATISTICS_EVERY_S", 0.0)
    folder = tmp_path / "folder"
    folder.write_text("in its place")

    async def until(condition: str) -> None:
        while condition not in caplog.text:  # noqa: ASYNC110 - the log has no event
            await asyncio.sleep(0)

    async def main() -> None:
        async with asyncio.timeout(WITHIN_S):
            serving = asyncio.create_task(EngineServer(LocalEngine(), Serving()).serve(folder / "engine.sock"))
            await until("cannot listen at")
            for _ in range(100):
                await asyncio.sleep(0)
            folder.unlink()
            await until("listening there again")
            _, writer = await asyncio.open_unix_connection(str(folder / "engine.sock"))
            writer.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())
    failure, success = caplog.messages
    assert "folder" in failure
    assert success.endswith("listening there again")
