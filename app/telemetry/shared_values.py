"""Values of metrics that the processes of a service count together, in memory that they share.

prometheus_client would keep them in files of a folder: a full disk kills the process that touches a new page of one (SIGBUS), a
deleted folder loses all counts, and each process that ends leaves its files to be read at every scrape. Here each worker slot
has its memory, which the processes in it use one after the other: counters go on, and only gauges are forgotten.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final
from weakref import finalize

from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app.memory_file import MemoryFile

_START_BYTES: Final = 1 << 16
"""It grows with the series."""
GONE: Final = math.nan
"""The value of a series that is no longer told. Its place in the memory cannot be given back."""
_OF_TWO: Final[dict[str, Callable[[float, float], float]]] = {"livemax": max, "livemin": min}
"""How the values of two processes become one, other than by their sum, by prometheus_client's name for it."""

Labels = tuple[tuple[str, str], ...]


class SlotMemory:
    """What the processes of one worker slot have counted."""

    def __init__(self) -> None:
        self.totals: Final = MemoryFile(_START_BYTES)
        self.gauges: Final = MemoryFile(_START_BYTES)

    def forget_gauges(self) -> None:
        """Drop the gauges of a process that ended; its counters stay."""
        # How much is in use. No memory is given back: a process may have mapped it.
        os.pwrite(self.gauges.descriptor, bytes(8), 0)


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """The memory of every worker slot, as passed to a process of one of them."""

    own: SlotMemory
    every: Collection[SlotMemory]


def value_class(memory: SlotMemory) -> type:
    """Return what prometheus_client makes each value of (`values.ValueClass`), for the process of a slot."""
    totals: Any = MmapedDict(memory.totals.path)  # type: ignore[no-untyped-call]
    gauges: Any = MmapedDict(memory.gauges.path)  # type: ignore[no-untyped-call]
    lock = Lock()

    class SharedValue:
        """A number that this process alone writes."""

        _multiprocess = True

        def __init__(  # noqa: PLR0917 - prometheus_client's signature
            self,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: Iterable[str],
            labelvalues: Iterable[str],
            help_text: str,
            multiprocess_mode: str = "",
            **_: object,
        ) -> None:
            self._stored = gauges if typ == "gauge" else totals
            labels = list(zip(labelnames, labelvalues, strict=True))
            self._key = json.dumps([typ, multiprocess_mode, metric_name, help_text, name, labels])
            with lock:
                self._value: float = self._stored.read_value(self._key)[0]

        def inc(self, amount: float) -> None:
            with lock:
                self._value += amount
                self._stored.write_value(self._key, self._value, 0.0)

        def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002 - as above
            with lock:
                self._value = value
                self._stored.write_value(self._key, value, 0.0)

        def get(self) -> float:
            return self._value

        def set_exemplar(self, exemplar: object) -> None:
            """Keep none: there is no place for it."""

        def get_exemplar(self) -> None:
            return None

    for stored in (totals, gauges):
        finalize(SharedValue, stored.close)
    return SharedValue


class AllProcesses(Collector):
    """The metrics of all processes as one."""

    def __init__(self, memory: Collection[SlotMemory]) -> None:
        self._memory = memory
        self._keys: dict[str, tuple[str, str, str, str, str, Labels]] = {}

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        series: dict[tuple[str, str, Labels], float] = {}
        for key, value in self._read():
            kind, mode, family, text, name, labels = self._parse(key)
            if family not in families:
                families[family] = Metric(family, text, kind)
            one = (family, name, labels)
            series[one] = _OF_TWO.get(mode, float.__add__)(series[one], value) if one in series else value
        # A histogram counts the values of each bucket alone, and makes its buckets in ascending order.
        so_far: dict[tuple[str, Labels], float] = {}
        for (family, name, labels), value in series.items():
            metric = families[family]
            if metric.type != "histogram" or name != f"{family}_bucket":
                metric.add_sample(name, dict(labels), value)
                continue
            *others, (_, bound) = labels
            count = so_far[family, tuple(others)] = so_far.get((family, tuple(others)), 0.0) + value
            metric.add_sample(name, dict(labels), count)
            if bound == floatToGoString(float("inf")):  # type: ignore[no-untyped-call]
                metric.add_sample(f"{family}_count", dict(others), count)
        return families.values()

    def _read(self) -> Iterator[tuple[str, float]]:
        for slot in self._memory:
            for memory in (slot.totals, slot.gauges):
                for key, value, *_ in MmapedDict.read_all_values_from_file(memory.path):  # type: ignore[no-untyped-call]
                    if not math.isnan(value):
                        yield key, value

    def _parse(self, key: str) -> tuple[str, str, str, str, str, Labels]:
        if key not in self._keys:
            *rest, labels = json.loads(key)
            self._keys[key] = (*rest, tuple(map(tuple, labels)))
        return self._keys[key]
