# noqa: INP001 - deploy/ is no package
"""The metrics of several replicas as one page.

Each series says whose it is in the label `instance`, which Prometheus keeps with `honor_labels: true`, so that rules and
dashboards see the replicas as they see servers that are scraped one by one.
"""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class _Replicas(Collector):
    def __init__(self, replicas: Iterable[tuple[str, Sequence[Metric]]]) -> None:
        self._replicas = replicas

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for name, metrics in self._replicas:
            for metric in metrics:
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [
                    sample._replace(labels={"instance": name, **sample.labels}) for sample in metric.samples
                ]
        yield from families.values()


def render(replicas: Iterable[tuple[str, Sequence[Metric]]]) -> bytes:
    """Return the metrics of the named replicas in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Replicas(replicas))
    return generate_latest(registry)
