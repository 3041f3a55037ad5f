"""The installed uvicorn has every internal that `app/http` relies on: an upgrade that moves one fails here by its name."""

import ast
import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.http.connections import connection

INTERNALS = {
    "protocol": (
        "_should_upgrade", "_unset_keepalive_if_required", "app_state", "client", "connection_lost", "connection_made", "cycle", "data_received", "flow",
        "headers", "loop", "on_body", "on_headers_complete", "on_message_complete", "on_url", "parser", "pause_writing",
        "pipeline", "resume_writing", "scheme", "scope", "server", "shutdown", "timeout_keep_alive_handler", "timeout_keep_alive_task", "transport",
        "url",
    ),
    "cycle": ("body", "disconnected", "keep_alive", "message_event", "more_body", "response_complete", "response_started", "scope"),
    "flow": ("pause_reading", "read_paused", "resume_reading"),
    "server": ("capture_signals", "config", "server_state", "should_exit", "shutdown"),
}  # fmt: skip


@pytest.fixture(scope="module")
def objects() -> Iterator[dict[str, Any]]:
    """One of each, as uvicorn makes them."""
    nothing: Any = None
    config = uvicorn.Config(lambda: None, ws="none", lifespan="off", log_config=None)
    loop = asyncio.new_event_loop()
    protocol = HttpToolsProtocol(config, ServerState(), {}, loop)
    protocol.on_message_begin()  # makes what belongs to a request
    cycle = RequestResponseCycle(
        nothing, nothing, nothing, nothing, nothing, False, [], nothing, False, True, lambda: None
    )
    yield {"protocol": protocol, "cycle": cycle, "flow": FlowControl(nothing), "server": uvicorn.Server(config)}
    loop.close()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in INTERNALS.items() for name in names])
def test_uvicorn_has_each_internal_that_connection_uses(objects: dict[str, Any], kind: str, name: str) -> None:
    assert hasattr(objects[kind], name)


@pytest.mark.parametrize(
    ("kind", "written"),
    [("protocol", {"self", "super()"}), ("cycle", {"cycle", "self.cycle", "self._latest"}), ("flow", {"self.flow"})],
)
def test_connection_uses_no_unlisted_internal(kind: str, written: set[str]) -> None:
    code = ast.parse(inspect.getsource(connection.HttpProtocol))
    used = {
        node.attr for node in ast.walk(code) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in written
    }
    own = set(vars(connection.HttpProtocol)) | {name for name in used if name.startswith("_")}  # ours are private
    assert used - set(INTERNALS[kind]) - own == set()
    assert set(INTERNALS[kind]) - used - own == set()  # nor is one listed that is not used any more
