"""What a request costs the engine's process, which all front ends share: its processor time by thread.

The process is that of `--workers`, with its metrics and its Unix socket. Its device packs batches as one on CUDA does,
sleeps for about as long as a large GPU would compute, and cuts zeros up: what is measured is everything but the model and what ONNX
Runtime takes to launch it. The front ends are this process, which sends what they would: single texts, in small frames.
"""

import asyncio
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import cycle, islice, pairwise, product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import uvloop

from app.bundle.files import Bundle, load_bundle
from app.bundle.graph_inputs import pack
from app.bundle.heads import SequenceHead
from app.bundle.manifest import Golden
from app.bundle.sequences import SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.local import LocalEngine
from app.engine.messages import Serving
from app.errors import ServiceError
from app.ipc.codec import EngineReply, EngineRequest, Replies, Requests, decode_from_engine, encode
from app.ipc.engine_server import EngineServer
from app.ipc.frames import FrameReader, frame
from app.processes.garbage_collection import freeze_heap
from app.telemetry.metrics import Metrics
from app.telemetry.shared_values import SharedMemory, SlotMemory
from benchmarks.batches import token_sequences
from benchmarks.bench import Bench
from benchmarks.report import Row, say
from benchmarks.texts import read_texts

FRONT_ENDS: Final = 12
BUDGET_TOKENS: Final = 8192
BATCH_S: Final = 1e-3
TOKEN_S: Final = 0.5e-6
"""A batch takes about so long, and so long for each token, in BERT-base on a large GPU."""
LAST_OF_FRAME: Final = 0.5
"""How likely a request is the last one of its frame: two share one on average."""
THREADS: Final = {"event_loop_us": "MainThread", "launcher_us": "engine_0", "waiter_us": "waiter_0"}
WITHIN_S: Final = 300
OUTSTANDING: Final = (4, 16, 64)
"""Requests that each front end has in flight: more of them make larger batches."""


def engine_process(bench: Bench, *, requests: int) -> Iterator[Row]:
    """Measure processor time a request without the model: single texts of 27.5 tokens from 12 front ends, in turns.

    30,000 requests/s leave 33 us each.
    """
    folder = bench.bundles.folder("demo")
    for number, outstanding in product(range(bench.rounds), OUTSTANDING):
        say(f"engine process, round {number + 1}: {outstanding} requests in flight of each front end")
        yield measure(folder, outstanding, requests)


class BlankBundle(Bundle):
    """One whose golden answers are zeros."""

    @cached_property
    def golden(self) -> Golden:
        labels = len(self.manifest.labels)
        cases = [case.model_copy(update={"logits": (0.0,) * labels}) for case in super().golden.cases]
        return Golden(cases=tuple(cases))


class BlankDevice:
    """Does everything that a runner on CUDA does in Python, but for handing the inputs over; every answer is zeros."""

    provider = "none"
    threads: Sequence[int] = ()
    launches_ahead = True

    def __init__(self, bundle: Bundle) -> None:
        self.variant_name: Final = bundle.manifest.variants[0].name
        self._head: Final = SequenceHead("logits")
        self._labels: Final = len(bundle.manifest.labels)
        self._free_at_s = 0.0
        self.batches = 0
        self.sleeping_s = 0.0
        """What going to sleep costs, which is no cost of the service's."""

    def keep_threads(self, threads: Sequence[int]) -> None: ...

    def launch(self, batch: Sequence[TokenSequence], threads: int = 0) -> Callable[[], list[SequenceResult]]:
        assert not threads
        feeds = pack(batch, target="cuda")
        starts = feeds["cls_index"].astype(np.int64, copy=False)
        [output] = self._head.outputs(batch)

        tokens = len(feeds["input_ids"])
        self._free_at_s = max(self._free_at_s, time.perf_counter()) + BATCH_S + TOKEN_S * tokens
        finished_at_s = self._free_at_s

        def finish() -> list[SequenceResult]:
            started_s = time.thread_time()
            time.sleep(max(0.0, finished_at_s - time.perf_counter()))
            self.sleeping_s += time.thread_time() - started_s
            self.batches += 1
            rows = np.zeros((len(batch), self._labels), np.float16)
            assert np.isfinite(rows).all()
            return self._head.split({output: rows}, batch, starts)

        return finish

    def run(self, batch: Sequence[TokenSequence], threads: int = 0) -> list[SequenceResult]:
        return self.launch(batch, threads)()

    trim = run


class Told(NamedTuple):
    """What the engine's process did until now, and its processor time by thread."""

    at_s: float
    batches: int
    cpu_s: dict[str, float]


def run_engine(folder: Path, socket_path: Path, orders: Connection) -> None:
    """Be the engine's process; whenever there is an order, tell what it has cost until now."""
    uvloop.run(_serve(folder, socket_path, orders))


async def _serve(folder: Path, socket_path: Path, orders: Connection) -> None:
    found = load_bundle(folder)
    bundle = BlankBundle(found.folder, found.manifest)
    device = BlankDevice(bundle)
    engine = LocalEngine()
    memory = SlotMemory()  # as in `--workers`
    loaded = await engine.load(
        bundle,
        lambda _: device,
        Metrics(memory=SharedMemory(memory, [memory])).add_model(bundle.name, bundle.manifest.task),
        budget_tokens=BUDGET_TOKENS,
        admission=Admission(max_queue_s=5, timeout_s=30),
    )

    def tell() -> None:
        orders.recv()
        cpu_s = {
            thread.name: time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
            for thread in threading.enumerate()
            if thread.ident is not None
        }
        cpu_s[THREADS["waiter_us"]] -= device.sleeping_s
        orders.send(Told(time.perf_counter(), device.batches, cpu_s))

    freeze_heap()
    asyncio.get_running_loop().add_reader(orders.fileno(), tell)
    await EngineServer(engine, Serving({bundle.name: loaded})).serve(socket_path)


class Answers:
    """Counts requests that were answered, for whoever waits for some number of them."""

    def __init__(self) -> None:
        self.count = 0
        self._limit = 0
        self._reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, replies: Sequence[EngineReply]) -> None:
        self.count += len(replies)
        if self._reached.done():
            return
        for reply in replies:
            if isinstance(reply.outcome, ServiceError):
                self._reached.set_exception(reply.outcome)
                return
        if self.count >= self._limit:
            self._reached.set_result(None)

    async def until(self, count: int) -> None:
        self._limit, self._reached = count, asyncio.get_running_loop().create_future()
        await self._reached


class FrontEnd(asyncio.Protocol):
    """Keeps some requests waiting: sends a frame again once all of it was answered."""

    def __init__(self, model: str, sequences: Sequence[TokenSequence], seed: int, answers: Answers) -> None:
        is_last = np.random.default_rng(seed).random(len(sequences)) < LAST_OF_FRAME
        is_last[-1] = True
        ends = (np.flatnonzero(is_last) + 1).tolist()
        requests = [EngineRequest(i, model, [sequence]) for i, sequence in enumerate(sequences)]
        frames = [requests[start:end] for start, end in pairwise([0, *ends])]
        self._frames: Final = [frame(encode(Requests.pack(one))) for one in frames]
        self._frame_of: Final = [number for number, one in enumerate(frames) for _ in one]
        self._sizes: Final = list(map(len, frames))
        self._unanswered: Final = list(self._sizes)
        self._answers: Final = answers
        self._reader: Final = FrameReader()

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401
        self._transport = transport
        for one in self._frames:
            transport.write(one)

    def data_received(self, data: bytes) -> None:
        for body in self._reader.feed(data):
            message = decode_from_engine(body)
            if isinstance(message, Replies):
                replies = message.unpack()
                self._answers.add(replies)
                for reply in replies:
                    self._ask_again(self._frame_of[reply.id])

    def _ask_again(self, number: int) -> None:
        self._unanswered[number] -= 1
        if not self._unanswered[number]:
            self._unanswered[number] = self._sizes[number]
            self._transport.write(self._frames[number])


async def _load(
    socket_path: Path, model: str, sequences: Sequence[TokenSequence], count: int, orders: Connection
) -> list[tuple[int, Told]]:
    """Return what was answered and what the engine told, before and after `count` requests; a fifth as many go first."""
    answers = Answers()

    def connected(front_end: "FrontEnd") -> "Callable[[], FrontEnd]":
        return lambda: front_end

    transports = []
    for i in range(FRONT_ENDS):
        front_end = FrontEnd(model, sequences[i::FRONT_ENDS], i, answers)
        connecting = asyncio.get_running_loop().create_unix_connection(connected(front_end), str(socket_path))
        transports.append((await connecting)[0])
    told = []
    for limit in (count // 5, count // 5 + count):
        async with asyncio.timeout(WITHIN_S):
            await answers.until(limit)
        answered = answers.count
        orders.send(None)
        told.append((answered, orders.recv()))
    for transport in transports:
        transport.abort()
    return told


def measure(folder: Path, outstanding: int, count: int) -> Row:
    """Start an engine, have each front end keep so many requests waiting, and return what each of `count` of them costs."""
    texts = cycle(token_sequences(folder, read_texts("reviews")))
    sequences = list(islice(texts, FRONT_ENDS * outstanding))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        socket_path = Path(place) / "engine.sock"
        orders, theirs = context.Pipe()
        process = context.Process(target=run_engine, args=(folder, socket_path, theirs), daemon=True)
        process.start()
        try:
            while not socket_path.exists():
                if not process.is_alive():
                    raise RuntimeError("the engine did not start")
                time.sleep(0.05)
            (asked, before), (answered, after) = uvloop.run(
                _load(socket_path, load_bundle(folder).key, sequences, count, orders)
            )
        finally:
            process.terminate()
            process.join()
    requests = answered - asked
    threads_us = {
        name: 1e6 * (after.cpu_s[thread] - before.cpu_s[thread]) / requests for name, thread in THREADS.items()
    }
    return {
        "in_flight": str(FRONT_ENDS * outstanding),
        "requests": requests,
        "rate_per_s": requests / (after.at_s - before.at_s),
        "requests_per_batch": requests / (after.batches - before.batches),
        **threads_us,
        "together_us": sum(threads_us.values()),
    }
