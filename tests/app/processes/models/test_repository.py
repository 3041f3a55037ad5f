"""What becomes of a load that fails, by what failed."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import Bundle
from app.engine.local import LocalEngine
from app.engine.messages import Serving
from app.errors import BundleError, ServiceError
from app.processes.models.repository import Repository
from app.settings import Settings
from app.telemetry.metrics import Metrics


class Failing:
    """Front ends that cannot make themselves ready."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.switched: list[Serving] = []

    async def prepare(self, _: Bundle) -> None:
        raise self._error

    async def switch(self, serving: Serving) -> None:
        self.switched.append(serving)


@pytest.mark.parametrize(
    ("error", "error_type", "says"),
    [
        (BundleError("It is damaged."), "bad_bundle", "It is damaged."),
        (MemoryError(), "no_room", "too little memory to load bundle sentiment"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "no_room", "too little memory to load bundle sentiment"),
        (ValueError("a fault"), "internal", "Its log has the cause"),
    ],
)
def test_a_load_that_fails_says_why_and_takes_back_what_was_prepared(
    shared_models: Path, error: Exception, error_type: str, says: str
) -> None:
    async def load() -> tuple[ServiceError, Any, list[Serving]]:
        engine, front_ends, serving = LocalEngine(), Failing(error), Serving()
        settings = Settings(models=shared_models, device="cpu")
        repository = Repository(settings, engine, Metrics(), front_ends, bundles=[], serving=serving)
        try:
            with pytest.raises(ServiceError, match=says) as refused:
                await repository.load("sentiment")
            return refused.value, await repository.states(), front_ends.switched
        finally:
            await engine.close()

    refused, [state], switched = asyncio.run(load())
    assert refused.error_type == error_type
    assert (state.state, state.error) == ("failed", refused.message)
    assert switched == [Serving()]
