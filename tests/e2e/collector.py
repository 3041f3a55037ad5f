"""A collector that takes OTLP over HTTP on a free port of loopback, and keeps it."""

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request of an exporter. Names of headers are lower case; the body is decompressed."""

    path: str
    headers: dict[str, str]
    body: bytes


class Collector:
    def __init__(self, port: int = 0) -> None:
        received: list[Received] = []
        collector = self
        self.status = 200
        self.body = b""
        """What it answers: an empty message, which says that all was taken."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers["content-length"]))
                is_gzip = headers.get("content-encoding") == "gzip"
                received.append(Received(self.path, headers, gzip.decompress(body) if is_gzip else body))
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(collector.body)))
                self.end_headers()
                self.wfile.write(collector.body)

            def log_message(self, *args: Any) -> None:
                pass

        self.received = received
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def of(self, path: str) -> list[Received]:
        """What came to a path."""
        return [one for one in list(self.received) if one.path == path]
