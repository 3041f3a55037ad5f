"""Metrics of the service's processes (processor time, memory, open files), of what they may use, and of the machine's GPUs."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from app.bundle.control_groups import memory_limit_bytes
from app.bundle.cpus import cpu_limit
from app.runtime.nvml import GpuState, open_gpus


def register_process_metrics(registry: CollectorRegistry, supervisor: int | None) -> None:
    """Add the collectors of processes and, where there are GPUs, of GPUs.

    Args:
        registry: Where they are added.
        supervisor: The process that, with its children, is the service; None if this process is the whole of it.
    """
    registry.register(_Processes(supervisor))
    registry.register(_Limits())
    read_gpus = open_gpus()
    if read_gpus is not None:
        registry.register(_Gpus(read_gpus))


class _Processes(Collector):
    """Memory, processor time and open files of the service: of this process, or of all that one supervisor started."""

    def __init__(self, supervisor: int | None) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        supervisor = self._supervisor
        if supervisor is None:
            return self._read([os.getpid()]).values()
        while True:
            # Read again if a process ended meanwhile: it would be counted twice, or not at all.
            ended_s = _cpu_of_ended_children(supervisor)
            totals = self._read(_family(supervisor))
            if _cpu_of_ended_children(supervisor) == ended_s:
                break
        [running] = totals["process_cpu_seconds"].samples
        totals["process_cpu_seconds"].samples = [running._replace(value=running.value + ended_s)]
        return totals.values()

    def _read(self, pids: Iterable[int]) -> dict[str, Metric]:
        totals: dict[str, Metric] = {}
        for pid in pids:
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                [sample] = metric.samples
                so_far = totals.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                value = sample.value
                if so_far.samples:
                    before = so_far.samples.pop().value
                    value = _OF_TWO.get(metric.name, sum)((before, value))
                so_far.add_sample(sample.name, {}, value)
        return totals


class _Limits(Collector):
    """What this process and its siblings together may use. It can change while they run."""

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "bert_cpu_limit_cores", "Cores that the service may keep busy, by affinity and quota.", cpu_limit()
        )
        memory = memory_limit_bytes()
        if memory is not None:
            yield GaugeMetricFamily("bert_memory_limit_bytes", "Memory that the service may use.", memory)


class _Gpus(Collector):
    """Memory and work of the GPUs of this machine."""

    def __init__(self, read: Callable[[], Iterable[GpuState]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        used = GaugeMetricFamily("bert_gpu_memory_used_bytes", "GPU memory in use, by any process.", labels=["gpu"])
        total = GaugeMetricFamily("bert_gpu_memory_total_bytes", "GPU memory.", labels=["gpu"])
        busy = GaugeMetricFamily(
            "bert_gpu_utilization_ratio", "Share of the last moments in which a kernel ran.", labels=["gpu"]
        )
        for state in self._read():
            used.add_metric([state.gpu], state.used_bytes)
            total.add_metric([state.gpu], state.total_bytes)
            busy.add_metric([state.gpu], state.utilization)
        return used, total, busy


_OF_TWO: Final[dict[str, Callable[[Iterable[float]], float]]] = {
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "process_open_fds": max,
}
"""How the values of two processes become one, other than by their sum: the service started with its first process, and the
limit of open files counts for each process, so that the fullest one meets it first."""


def _family(parent: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    return [parent, *map(int, children.split())]


def _cpu_of_ended_children(parent: int) -> float:
    """Return the processor time, seconds, of a process's ended children: the counter must not fall when one ends."""
    # The name of the program, in brackets, may hold spaces. What follows it is described in proc_pid_stat(5), from field 3.
    fields = Path(f"/proc/{parent}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
