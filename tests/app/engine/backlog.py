"""How much a batcher has to do, for tests of what it expects."""

from typing import Any

from app.engine.batcher import Batcher


def backlog_s(batcher: Batcher[Any, Any]) -> float:
    """Return how long it takes to run all there is, as the batcher estimates it."""
    queue = batcher.statistics
    return queue.running_s + queue.queued_s
