"""Rows through the engine: read, tokenized, run, answered and written at the same time, in order, in bounded memory."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.predict.faults import CannotWrite, Stopped
from app.predict.output import Counts, Output
from app.predict.prediction import Outcome, Part, Predictor
from app.predict.progress_bar import ProgressBar
from app.predict.results import Results
from app.predict.rows import BadRow, Row, Rows
from app.predict.source import Position, Source

MAX_CHUNK_ROWS: Final = 2048
"""Rows that are tokenized together: a request has at most 4096 inputs."""
MAX_CHUNK_BYTES: Final = 256 * 1024
"""Bytes of the input after which no more rows are tokenized together."""
CHUNK_S: Final = 0.25
"""How long the engine is to take for a chunk: a smaller one costs more time for each row, a larger one is more to lose."""
BYTES_A_TOKEN: Final = 4
"""Of English text."""
CHUNKS_IN_ENGINE: Final = 3
"""Chunks in the engine, of at least a full batch for each lane together: one ends, the others wait, and no lane does."""
CHUNKS_AHEAD: Final = 6
"""Chunks that may be tokenized before the engine takes them, and that may be in the engine or wait to be written."""
COMMIT_EVERY_S: Final = 1.0
"""How much work a kill may cost."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Rows, where the input stands after them, and how many bytes of its file have been read then."""

    rows: list[Row | BadRow]
    end: Position
    done_bytes: int


_Tokenized = tuple[_Chunk, list[Part | BadRow]]
_Finished = tuple[_Chunk, list[Outcome], int]
"""A chunk, what became of its rows, and how many of these were cut."""


class Pipeline:
    """One run over an input."""

    def __init__(
        self,
        source: Source,
        rows: Rows,
        predictor: Predictor,
        *,
        results: Results,
        output: Output,
        bar: ProgressBar,
    ) -> None:
        self._source = source
        self._rows = iter(rows)
        # A thread of its own: one that waits for a pipe may not keep the others' pool from ending.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._predictor = predictor
        self._results = results
        self._output = output
        self._bar = bar
        self.counts = Counts() if output.progress is None else output.progress.counts
        self._end = source.position()
        self._chunks = self._tokens = 0  # in the engine
        self._has_room = asyncio.Event()
        # Held while rows are written and counted: a run that is stopped meanwhile commits after that.
        self._writing = threading.Lock()
        self._committed_at = time.monotonic()

    async def run(self, engine: LocalEngine, loaded: Loaded, stopped: asyncio.Future[Any]) -> None:
        """Predict all rows that are left.

        Args:
            engine: Where.
            loaded: How it has loaded the model.
            stopped: Done when the run is to end early.

        Raises:
            Stopped: it was asked to. What was written counts.
            CannotRead: the input cannot be read any further. What was written counts.
            CannotWrite: the output cannot be written. What was committed counts.
            EngineLost: the device failed for good. What was written counts.
        """
        full_tokens = loaded.lanes * loaded.speed.budget_tokens
        chunk_tokens = max(full_tokens, round(CHUNK_S * loaded.lanes / loaded.speed.seconds_per_token))
        tokenized: asyncio.Queue[asyncio.Task[_Tokenized] | None] = asyncio.Queue(CHUNKS_AHEAD)
        finished: asyncio.Queue[asyncio.Task[_Finished] | None] = asyncio.Queue(CHUNKS_AHEAD)
        try:
            if self._output.progress is None:  # a table has its header, also without rows
                await asyncio.to_thread(self._put, _Chunk([], self._end, self._source.done_bytes), [], 0)
            async with asyncio.TaskGroup() as group:
                stopping = group.create_task(_raise_when_done(stopped))
                group.create_task(self._read(group, tokenized, min(MAX_CHUNK_BYTES, chunk_tokens * BYTES_A_TOKEN)))
                group.create_task(self._run(group, tokenized, finished, engine, CHUNKS_IN_ENGINE * full_tokens))
                await self._write(finished)
                stopping.cancel()
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
            if not isinstance(first, CannotWrite):
                await asyncio.to_thread(self._commit)
            raise first from first.__cause__
        finally:
            self._reader.shutdown(wait=False)
        await asyncio.to_thread(self._commit)
        await asyncio.to_thread(self._output.finish)

    async def _read(
        self, group: asyncio.TaskGroup, tokenized: asyncio.Queue[asyncio.Task[_Tokenized] | None], chunk_bytes: int
    ) -> None:
        """Read chunks, and have them tokenized."""
        loop = asyncio.get_running_loop()
        while chunk := await loop.run_in_executor(self._reader, self._next_chunk, chunk_bytes):
            await tokenized.put(group.create_task(asyncio.to_thread(self._tokenize, chunk)))
        await tokenized.put(None)

    def _next_chunk(self, chunk_bytes: int) -> _Chunk | None:
        rows: list[Row | BadRow] = []
        begin = self._source.offset
        for row in self._rows:
            rows.append(row)
            if len(rows) >= min(MAX_CHUNK_ROWS, self._predictor.max_rows) or self._source.offset - begin >= chunk_bytes:
                break
        return _Chunk(rows, self._source.position(), self._source.done_bytes) if rows else None

    def _tokenize(self, chunk: _Chunk) -> _Tokenized:
        return chunk, self._predictor.prepare(chunk.rows)

    async def _run(
        self,
        group: asyncio.TaskGroup,
        tokenized: asyncio.Queue[asyncio.Task[_Tokenized] | None],
        finished: asyncio.Queue[asyncio.Task[_Finished] | None],
        engine: LocalEngine,
        enough_tokens: int,
    ) -> None:
        """Hand chunks to the engine, in order, until there are enough of them and of their tokens."""
        while task := await tokenized.get():
            chunk, parts = await task
            while self._chunks >= CHUNKS_IN_ENGINE and self._tokens >= enough_tokens:
                self._has_room.clear()
                await self._has_room.wait()
            tokens = sum(part.prepared.tokens for part in parts if isinstance(part, Part))
            self._chunks += 1
            self._tokens += tokens
            await finished.put(group.create_task(self._finish(chunk, parts, engine, tokens)))
        await finished.put(None)

    async def _finish(self, chunk: _Chunk, parts: list[Part | BadRow], engine: LocalEngine, tokens: int) -> _Finished:
        try:
            outcomes = await self._predictor.predict(parts, engine)
        finally:
            self._chunks -= 1
            self._tokens -= tokens
            self._has_room.set()
        return chunk, outcomes, sum(part.prepared.truncated for part in parts if isinstance(part, Part))

    async def _write(self, finished: asyncio.Queue[asyncio.Task[_Finished] | None]) -> None:
        """Write what becomes of chunks, in order."""
        while task := await finished.get():
            await asyncio.to_thread(self._put, *(await task))

    def _put(self, chunk: _Chunk, outcomes: Sequence[Outcome], truncated: int) -> None:
        with self._writing:
            lines, bad_lines, bad = self._results.write(outcomes)
            self._output.write(lines, bad_lines)
            self.counts = Counts(
                predicted=self.counts.predicted + len(outcomes) - bad,
                truncated=self.counts.truncated + truncated,
                bad=self.counts.bad + bad,
            )
            self._end = chunk.end
            self._bar.show(chunk.done_bytes, self.counts.rows)
            is_due = time.monotonic() - self._committed_at >= COMMIT_EVERY_S
        if is_due:
            self._commit()

    def _commit(self) -> None:
        with self._writing:
            self._output.commit(self._end, self.counts, self._results.header)
            self._committed_at = time.monotonic()


async def _raise_when_done(stopped: asyncio.Future[Any]) -> None:
    await asyncio.wait((stopped,))  # which, unlike `await stopped`, does not cancel it when this is cancelled
    raise Stopped
