"""The benchmark of the engine's process runs: front ends, socket, batches, metrics and all."""

import json
import subprocess
import sys

from tests.conftest import BundleOf
from tests.support import ROOT


def test_every_thread_of_the_process_is_told(bundle_of: BundleOf) -> None:
    command = [sys.executable, "-m", "benchmarks.inside.engine_process", str(bundle_of("bert-single-label"))]
    done = subprocess.run(
        [*command, "--outstanding", "2", "--requests", "500"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["in_flight"] == 24
    assert told["requests"] >= 450
    assert 1 <= told["requests_per_batch"] <= 24
    assert min(told[name] for name in ("event_loop_us", "launcher_us", "waiter_us", "rate_per_s")) > 0
