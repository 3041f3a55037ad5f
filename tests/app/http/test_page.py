"""The page's address: its headers, who gets it, and what else is answered there."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest

from app.http.api import Api, Inference, Limits, Served
from app.http.callers import Callers
from app.http.dialects import DIALECTS
from app.http.dispatch import Dispatcher
from app.http.finished import Finished
from app.http.keys import Keys, digest_of
from app.http.large_work import LargeWork
from app.http.page import FILE, PageApi
from app.http.readiness import Readiness
from app.http.utility import UtilityEndpoint
from app.tasks.catalog import Catalog
from app.telemetry.metrics import Metrics

HTML = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"
JSON = "*/*"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the page's route went to the application")


def ask(
    method: str = "GET", path: str = "/", others: Sequence[str] = ("kserve",), **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask a server of the page and of other APIs, which needs a key, without one."""
    served = Served(Catalog([]), lambda _: None, Readiness(), Limits(1000, 8, 1.0, Keys({digest_of("s3cret"): None})))
    apis: list[Api] = [DIALECTS[name](served) for name in others]
    apis.append(PageApi(served, apis))
    finished = Finished(Metrics(), None, Callers(""))
    large = LargeWork(30, 30)
    routes = [(api, route) for api in apis for route in api.routes]
    endpoints = [
        UtilityEndpoint(api, route, large=large, finished=finished)
        for api, route in routes
        if not isinstance(route, Inference)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    dispatcher = Dispatcher(nothing, endpoints, finished, root_path="/bert")
    asyncio.run(dispatcher({"type": "http", "method": method, "path": path, "headers": given}, receive, send))
    start, content = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, content["body"]


def test_the_page_needs_no_key_and_runs_its_own_script_alone() -> None:
    status, headers, body = ask(accept=HTML)
    assert (status, body) == (200, FILE.read_bytes())
    own = {
        element: b64encode(
            sha256(re.findall(rb"<%b>(.*?)</%b>" % ((element.encode(),) * 2), body, re.DOTALL)[0]).digest()
        )
        for element in ("script", "style")
    }
    assert headers["content-security-policy"].split("; ") == [
        "default-src 'none'", f"script-src 'sha256-{own['script'].decode()}'", f"style-src 'sha256-{own['style'].decode()}'",
        "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    ]  # fmt: skip
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in headers


def test_a_browser_that_has_the_page_is_told_that_it_is_the_same() -> None:
    _, first, body = ask(accept=HTML)
    assert (first["cache-control"], first["vary"]) == ("no-cache", "Accept")
    for known in (first["etag"], f'"other", W/{first["etag"]}', "*"):
        status, headers, content = ask(accept=HTML, if_none_match=known)
        assert (status, content, headers["etag"]) == (304, b"", first["etag"])
        assert "content-length" not in headers
        assert headers["content-security-policy"] == first["content-security-policy"]
    assert ask(accept=HTML, if_none_match='"other"')[2] == body


@pytest.mark.parametrize("path", ["/", "/bert", "/bert/"])
def test_the_page_is_at_the_root_and_below_the_path_of_a_proxy(path: str) -> None:
    assert ask(path=path, accept=HTML)[2] == FILE.read_bytes()


def test_callers_that_want_no_html_get_what_kserve_has_there() -> None:
    for headers in ({"accept": JSON}, {}):
        status, _, body = ask(**headers)
        assert (status, json.loads(body)) == (200, {"status": "alive"})
        assert ask(others=[], **headers)[2] == FILE.read_bytes()


def test_head_has_the_headers_of_get() -> None:
    told = {"accept": HTML, "x_request_id": "a-1"}
    assert ask("HEAD", **told)[:2] == ask(**told)[:2]


def test_other_methods_are_refused_with_those_of_the_path() -> None:
    status, headers, body = ask("PUT", accept=HTML)
    assert (status, headers["allow"]) == (405, "GET")
    assert json.loads(body)["error_type"] == "method_not_allowed"
