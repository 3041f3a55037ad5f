"""What a front end asks the engine for, as far as it needs no engine."""

import asyncio
import weakref
from pathlib import Path

import numpy as np

from app.bundle.sequences import TokenSequence
from app.engine.admission import Admission
from app.errors import EngineLost
from app.ipc.remote_engine import RemoteEngine
from tests.support import uncollected


class Sequences(list[TokenSequence]):
    """Can be referred to weakly."""


def test_a_request_that_fails_leaves_nothing_to_the_garbage_collector() -> None:
    async def check() -> None:
        engine = RemoteEngine(Path("nowhere"), admission=Admission(5.0, 30.0))
        engine._keys = frozenset({"model@1"})
        sequences = Sequences([TokenSequence(np.zeros(2, np.int32), np.zeros(2, np.int32))])
        left = weakref.ref(sequences)
        asking = asyncio.create_task(engine.infer("model@1", sequences))
        del sequences
        await asyncio.sleep(0)
        engine._disconnect()
        await asyncio.wait((asking,))
        assert isinstance(asking.exception(), EngineLost)
        del asking
        assert left() is None

    with uncollected():
        asyncio.run(check())
