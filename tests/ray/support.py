"""Start a Ray cluster with the service in processes of their own, and see that all of them end."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support import ROOT

START_WITHIN_S: Final = 90.0
STOP_WITHIN_S: Final = 60.0


@dataclass
class Cluster:
    process: "subprocess.Popen[bytes]"
    url: str
    log_path: Path

    @property
    def processes(self) -> dict[int, str]:
        """Every process of the cluster that runs, by its id: all are of the session of the first."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            state, _, _, session = rest.split()[:4]
            if int(session) == self.process.pid and state != "Z":
                found[int(folder.name)] = name
        return found

    def stop(self) -> int:
        """End it as an operator would; return the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(STOP_WITHIN_S)


@contextmanager
def ray_serving(models: Path, *, settings: dict[str, str], haproxy: bool = False, **options: Any) -> Iterator[Cluster]:
    """Serve `models`; what is still running at the end is killed."""
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("BERT_", "RAY_"))} | {
        "BERT_MODELS": str(models),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's name for: a cluster of one machine, on loopback
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray leaves one in the home folder
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    }
    # Not pytest's folder: the path of a Unix socket is short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        if haproxy:
            environment |= _haproxy(Path(folder))
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray.cluster", port, folder, json.dumps(options)],
                cwd=ROOT,
                env=environment | settings,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        cluster = Cluster(process, f"http://127.0.0.1:{port}", log_path)
        try:
            _wait_until_ready(cluster)
            yield cluster
        finally:
            for pid in cluster.processes:
                os.kill(pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _haproxy(folder: Path) -> dict[str, str]:
    """Return what makes Ray start HAProxy instead of its own proxy, with everything of it in a folder."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_PORT": free_port(),
        "RAY_SERVE_HAPROXY_STATS_PORT": free_port(),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy-state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    }


def _wait_until_ready(cluster: Cluster) -> None:
    deadline = time.monotonic() + START_WITHIN_S
    while "ready\n" not in (log := cluster.log_path.read_text()):
        assert cluster.process.poll() is None, f"the cluster ended:\n{log}"
        assert time.monotonic() < deadline, f"the cluster is not ready:\n{log}"
        time.sleep(0.05)
