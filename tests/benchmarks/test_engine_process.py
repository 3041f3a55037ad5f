"""The benchmark of the engine's process runs: front ends, socket, batches, metrics and all."""

from benchmarks.parts.engine_process import measure
from tests.conftest import BundleOf


def test_every_thread_of_the_process_is_measured(bundle_of: BundleOf) -> None:
    row = measure(bundle_of("bert-single-label"), outstanding=2, count=500)
    assert row["in_flight"] == "24"
    assert row["requests"] >= 450
    assert 1 <= row["requests_per_batch"] <= 24
    threads_us = [row[name] for name in ("event_loop_us", "launcher_us", "waiter_us")]
    assert min(*threads_us, row["rate_per_s"]) > 0
    assert row["together_us"] == sum(threads_us)
