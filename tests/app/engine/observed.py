"""Keeps what a batcher and its engine report."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.engine.messages import BatchRan, QueueStatistics


@dataclass
class Observed:
    batches: list[BatchRan] = field(default_factory=list)
    started_s: list[float] = field(default_factory=list)
    cancellations: int = 0
    queues: list[QueueStatistics] = field(default_factory=list)

    def started(self, queued_s: Sequence[float]) -> None:
        self.started_s += queued_s

    def ran(self, batch: BatchRan) -> None:
        self.batches.append(batch)

    def cancelled(self) -> None:
        self.cancellations += 1

    def queued(self, queue: QueueStatistics) -> None:
        self.queues.append(queue)
