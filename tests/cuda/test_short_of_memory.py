"""A GPU whose memory is just enough, or less: no request is lost, no answer is another one, and no memory is kept."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pytest

from app.bundle.files import Bundle, load_bundle
from app.bundle.manifest import Precision
from app.bundle.sequences import MaskScores, SequenceResult, TokenSequence
from app.engine.admission import Admission
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, Speed
from app.engine.tuning import measure_speed
from app.errors import Internal, OutOfDeviceMemory
from app.runtime.choice import open_runner
from app.runtime.cuda import Cuda, CudaError
from app.telemetry.metrics import Metrics
from benchmarks.machine import used_bytes
from model_export.export import GPU_VARIANTS
from tests.conftest import BundleOf
from tests.cuda.conftest import Gpu, GpuBundleOf
from tests.model_export.support import narrowed

pytestmark = pytest.mark.cuda

AMPLE_BYTES: Final = 4 << 20
"""Of the device's memory: every batch here fits."""
LESS: Final = 0.8
LEAST_BUDGET_TOKENS: Final = 128
TARGETS: Final = np.arange(10, 20, dtype=np.int32)


@pytest.fixture(autouse=True)
def what_is_held_shows() -> Iterator[None]:
    """The garbage collector would free it, and what pytest keeps of the log has the errors and, by their frames, the models."""
    gc.collect()
    gc.disable()
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


def text(bundle: Bundle, length: int, *, masks: int = 1, top_k: int = 3, has_targets: bool = False) -> TokenSequence:
    """A text of this many tokens, of which the first ones are masks if the model fills them."""
    ids = (7 * np.arange(length, dtype=np.int32) + length) % 300 + 50
    types = np.zeros(length, np.int32)
    if bundle.manifest.task != "fill-mask":
        return TokenSequence(ids, types)
    mask = bundle.manifest.special_tokens.mask
    assert mask is not None
    ids[:masks] = mask.id
    return TokenSequence(ids, types, np.arange(masks, dtype=np.int32), top_k, TARGETS if has_targets else None)


def requests(bundle: Bundle) -> list[list[TokenSequence]]:
    """Several of a few texts each, which come at once, and of which some have nothing but masks."""
    longest = bundle.manifest.max_length
    full = text(bundle, longest, masks=longest)
    return [
        [full] * 12,
        *([text(bundle, n, masks=n), text(bundle, longest, masks=n), text(bundle, n)] for n in (2, 9, 17, 30)),
        [text(bundle, longest, masks=longest, top_k=10, has_targets=True)] * 3,
        [text(bundle, longest, masks=longest, top_k=300)],
        [text(bundle, longest)] + [text(bundle, 2)] * 60,
    ]


def are_same(one: SequenceResult, other: SequenceResult) -> bool:
    if isinstance(one, MaskScores) and isinstance(other, MaskScores):
        return np.array_equal(one.tokens, other.tokens) and np.array_equal(one.scores, other.scores)
    return np.array_equal(np.asarray(one), np.asarray(other))


def answers_alone(bundle: Bundle, precision: Precision, asked: Sequence[Sequence[TokenSequence]]) -> list[Any]:
    """The answer to each text of each request, on a card with all the memory that it wants."""
    runner = open_runner(bundle, device="cuda", precision=precision, threads=[1])
    return [[runner.run([one])[0] for one in request] for request in asked]


async def load(
    engine: LocalEngine,
    bundle: Bundle,
    precision: Precision = "fp16",
    *,
    budget_tokens: int | None,
    memory_bytes: int = 0,
    beside: bool = False,
) -> Loaded | None:
    """Load a model that may take so much of the device's memory, 0 for all, and return how, None if that is not enough."""
    observer = Metrics().add_model(bundle.name, bundle.manifest.task)
    try:
        return await engine.load(
            bundle,
            lambda one: open_runner(
                one, device="cuda", precision=precision, threads=[1], gpu_memory_bytes=memory_bytes
            ),
            observer,
            budget_tokens=budget_tokens,
            admission=Admission(600.0, 600.0),
            beside=beside,
        )
    except OutOfDeviceMemory:
        return None


async def until(condition: Callable[[], bool]) -> None:
    """The thread of the last batch has what it ran until it has woken the event loop."""
    async with asyncio.timeout(20.0):
        while not condition():  # noqa: ASYNC110 - that happens in another thread
            await asyncio.sleep(0.001)


@asynccontextmanager
async def engine_that_keeps_nothing() -> AsyncIterator[LocalEngine]:
    """An engine that has freed all memory of the device once its models are released."""
    used = used_bytes("cuda")
    before = used()
    engine = LocalEngine()
    yield engine
    for key in engine.statistics():
        await engine.release(key)
    await until(lambda: used() == before)
    await engine.close()


async def assert_answered(
    engine: LocalEngine, bundle: Bundle, asked: Sequence[Sequence[TokenSequence]], expected: Sequence[Any]
) -> None:
    """Ask everything at once, so that a batch is launched while the one before it runs or is found too large."""
    async with asyncio.timeout(60.0):
        replies = await asyncio.gather(*(engine.infer(bundle.key, request) for request in asked))
    for reply, answers in zip(replies, expected, strict=True):
        assert all(map(are_same, reply, answers))


def assert_answered_with_less_and_less(bundle: Bundle, precision: Precision, budget_tokens: int | None) -> None:
    """From ample memory down to too little for a start, which needs no less for a budget that is chosen than for the least."""
    asked = requests(bundle)
    expected = answers_alone(bundle, precision, asked)

    async def serve(memory_bytes: int) -> bool:
        async with engine_that_keeps_nothing() as engine:
            started = await load(engine, bundle, precision, budget_tokens=budget_tokens, memory_bytes=memory_bytes)
            if started:
                await assert_answered(engine, bundle, asked, expected)
                await assert_answered(engine, bundle, asked[-1:], expected[-1:])
            elif budget_tokens is None:
                assert not await load(
                    engine, bundle, precision, budget_tokens=LEAST_BUDGET_TOKENS, memory_bytes=memory_bytes
                )
        return started is not None

    memory_bytes = AMPLE_BYTES
    while asyncio.run(serve(memory_bytes)):
        memory_bytes = int(LESS * memory_bytes)
    assert memory_bytes < AMPLE_BYTES // 2


@pytest.mark.parametrize(
    ("name", "precision", "budget_tokens"),
    [
        ("bert-fill-mask", "fp16", 128),
        ("bert-fill-mask", "fp16", 1024),
        ("bert-fill-mask", "fp32", 512),
        ("bert-fill-mask", "fp16", None),
        ("roberta-fill-mask", "fp32", 256),
        ("roberta-fill-mask", "fp16", None),
        ("bert-entities", "fp16", 512),
        ("roberta-answer", "fp32", 512),
    ],
)
def test_whatever_the_memory_every_text_is_answered_as_alone(
    name: str, precision: Precision, budget_tokens: int | None, gpu: Gpu, gpu_bundle_of: GpuBundleOf
) -> None:
    bundle = load_bundle(gpu_bundle_of(name))
    assert_answered_with_less_and_less(bundle, precision, budget_tokens)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_whatever_the_size_of_heads_every_text_is_answered_as_alone(
    precision: Precision, gpu: Gpu, bundle_of: BundleOf, tmp_path: Path
) -> None:
    folder = narrowed("bert-fill-mask", tmp_path / "heads-of-10", hidden=30, heads=3)
    assert_answered_with_less_and_less(load_bundle(bundle_of(folder, variants=GPU_VARIANTS)), precision, 512)


def test_a_measured_budget_is_halved_until_its_largest_batch_fits(
    gpu: Gpu, gpu_bundle_of: GpuBundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(gpu_bundle_of("bert-fill-mask"))

    def too_much(*arguments: Any, **options: Any) -> Speed:
        return replace(measure_speed(*arguments, **options | {"limit_tokens": 512}), budget_tokens=4096)

    monkeypatch.setattr("app.engine.preparation.measure_speed", too_much)

    async def serve(budget_tokens: int | None) -> Loaded | None:
        async with engine_that_keeps_nothing() as engine:
            return await load(engine, bundle, budget_tokens=budget_tokens, memory_bytes=700_000)

    loaded = asyncio.run(serve(None))
    assert loaded is not None
    assert loaded.speed.budget_tokens == 512
    assert asyncio.run(serve(1024)) is None, "one that the operator chose is kept"


def no_more(_: Cuda, size: int) -> NoReturn:
    raise CudaError(f"CUDA failure 2: out of memory, {size} bytes")


def test_answers_that_find_no_room_in_the_memory_of_the_host_are_fetched_in_parts(
    gpu: Gpu, gpu_bundle_of: GpuBundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of the whole vocabulary for a single text of masks are more than warm-up has copied back."""
    bundle = load_bundle(gpu_bundle_of("bert-fill-mask"))
    asked = requests(bundle)
    expected = answers_alone(bundle, "fp16", asked)

    async def serve() -> None:
        async with engine_that_keeps_nothing() as engine:
            assert await load(engine, bundle, budget_tokens=512)
            monkeypatch.setattr(Cuda, "allocate_host", no_more)
            await assert_answered(engine, bundle, asked, expected)

    asyncio.run(serve())


def test_a_text_that_does_not_fit_even_alone_is_refused_and_the_next_is_answered(
    gpu: Gpu, gpu_bundle_of: GpuBundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the warm-up of a single text, there is no room for the whole vocabulary's scores of one mask."""
    bundle = load_bundle(gpu_bundle_of("bert-fill-mask"))
    normal = [[text(bundle, 9)]]
    expected = answers_alone(bundle, "fp16", normal)

    async def serve() -> None:
        async with engine_that_keeps_nothing() as engine:
            assert await load(engine, bundle, budget_tokens=bundle.manifest.max_length)
            monkeypatch.setattr(Cuda, "allocate_host", no_more)
            with pytest.raises(Internal, match=r"inputs\[1\] does not fit into the device's memory, even alone"):
                await engine.infer(bundle.key, [normal[0][0], text(bundle, 9, has_targets=True)])
            await assert_answered(engine, bundle, normal, expected)

    asyncio.run(serve())


def test_a_model_without_room_for_its_inputs_does_not_start(
    gpu: Gpu, gpu_bundle_of: GpuBundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(gpu_bundle_of("bert-fill-mask"))
    monkeypatch.setattr(Cuda, "allocate_device", no_more)

    async def serve() -> None:
        async with engine_that_keeps_nothing() as engine:
            assert not await load(engine, bundle, budget_tokens=512)

    asyncio.run(serve())


@pytest.mark.parametrize("memory_bytes", [140_000, 200_000, 300_000, 400_000])
def test_a_model_that_does_not_fit_beside_leaves_no_memory_behind_and_the_other_serves_on(
    memory_bytes: int, gpu: Gpu, gpu_bundle_of: GpuBundleOf
) -> None:
    """It fails while its session is made, with its golden answers, in the search for a budget or in warm-up."""
    serving, new = (load_bundle(gpu_bundle_of(name)) for name in ("bert-fill-mask", "roberta-fill-mask"))
    asked = requests(serving)
    expected = answers_alone(serving, "fp16", asked)
    used = used_bytes("cuda")

    async def serve() -> None:
        async with engine_that_keeps_nothing() as engine:
            assert await load(engine, serving, budget_tokens=512, memory_bytes=700_000)
            await assert_answered(engine, serving, asked, expected)
            before = used()
            loading = asyncio.create_task(
                load(engine, new, "fp32", budget_tokens=512, memory_bytes=memory_bytes, beside=True)
            )
            while not loading.done():
                await assert_answered(engine, serving, asked, expected)
            assert not loading.result()
            await until(lambda: used() <= before)

    asyncio.run(serve())
