"""Large answers are compressed beside what else runs in threads."""

import asyncio
import zlib
from threading import Barrier, Event

from app.http.api import Raw
from app.http.compression.answers import INLINE_BYTES, Compressor
from app.http.large_work import WRITERS, LargeWork

LARGE = bytes(2 * INLINE_BYTES)


def test_large_metrics_are_compressed_while_answers_are_made() -> None:
    async def test() -> None:
        large, begun, made = LargeWork(60.0, 60.0), Barrier(WRITERS + 1, timeout=10), Event()

        def make() -> None:
            begun.wait()
            made.wait()

        try:
            making = [asyncio.create_task(large.write(make, 1)) for _ in range(WRITERS)]
            await asyncio.to_thread(begun.wait)
            scope = {"headers": [(b"accept-encoding", b"gzip")]}
            async with asyncio.timeout(10):
                answer = await Compressor(large).compressed(scope, Raw(LARGE, b"text/plain"))
            assert zlib.decompress(answer.body, wbits=zlib.MAX_WBITS + 16) == LARGE
            made.set()
            await asyncio.gather(*making)
        finally:
            made.set()
            large.close()

    asyncio.run(test())
