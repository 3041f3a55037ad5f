"""Chromium lets a page of another origin read answers if the server lists that origin, and else does not."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support import ServerProcess, serving

KEY = "s3cret"
ASK = """
async ([url, key]) => {
    try {
        const headers = {"content-type": "application/json", authorization: `Bearer ${key}`, "x-request-id": "asked"};
        const reply = await fetch(`${url}/v1/classify`, {method: "POST", headers, body: '{"inputs": "Good."}'});
        return [reply.status, reply.headers.get("x-request-id"), Object.keys(await reply.json())];
    } catch (error) {
        return error.name;
    }
}
"""
"""Asks with what makes a browser ask for a preflight first."""


class EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Return the port of a page, which is at localhost and at 127.0.0.1: two origins."""
    with HTTPServer(("127.0.0.1", 0), EmptyPage) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        yield pages.server_port
        pages.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def listing(browser: Browser, port: int, shared_models: Path) -> Iterator[ServerProcess]:
    arguments = ("--threads", "1", "--api-key", KEY, "--cors-allow-origin", f"http://127.0.0.1:{port}")
    with serving(shared_models / "sentiment", *arguments) as server:
        yield server


def ask_from(browser: Browser, page_url: str, server: ServerProcess, key: str = KEY) -> Any:
    context = browser.new_context()
    page = context.new_page()
    page.goto(page_url)
    told = page.evaluate(ASK, [server.url, key])
    context.close()
    return told


def test_a_page_that_is_listed_reads_answers_and_errors(browser: Browser, port: int, listing: ServerProcess) -> None:
    listed = f"http://127.0.0.1:{port}"
    status, request_id, keys = ask_from(browser, listed, listing)
    assert (status, request_id) == (200, "asked")
    assert "predictions" in keys
    assert ask_from(browser, listed, listing, "wrong") == [401, "asked", ["error", "error_type", "request_id"]]


def test_a_page_that_is_not_listed_reads_nothing(browser: Browser, port: int, listing: ServerProcess) -> None:
    assert ask_from(browser, f"http://localhost:{port}", listing) == "TypeError"
