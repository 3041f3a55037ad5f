"""`GET /`: a page on which a person tries the served models in a browser.

One file, `page.html`, with its own style and script, read when the server starts. It asks what any caller may ask.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, Final

from app.http.api import Api, Raw, Received, Served, Utility

FILE: Final = Path(__file__).with_name("page.html")


class PageApi(Api):
    """The page and its headers. It needs no key; what it asks for does."""

    name: ClassVar[str] = "page"

    def __init__(self, served: Served, others: Sequence[Api]) -> None:
        """Read the page; where it is, one of the other APIs may have a route for callers that are no browsers."""
        super().__init__(served)
        routes = (route for api in others for route in api.routes if isinstance(route, Utility))
        self._other: Final = next((route for route in routes if (route.method, route.path) == ("GET", "/")), None)
        body = FILE.read_bytes()
        self._etag: Final = f'"{sha256(body).hexdigest()[:32]}"'
        headers = [
            (b"etag", self._etag.encode()),
            (b"cache-control", b"no-cache"),
            (b"vary", b"Accept"),
            (b"content-security-policy", _policy(body.decode()).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        self._whole: Final = Raw(body, b"text/html; charset=utf-8", headers)
        self._unchanged: Final = Raw(b"", b"text/html; charset=utf-8", headers, status=304)

    @property
    def routes(self) -> Sequence[Utility]:
        return [Utility("GET", "/", "A page to try the models", self._answer, is_open=True)]

    def _answer(self, received: Received) -> object:
        """Return the page, or only that it is what the caller has already; to who wants no HTML, what the other API has."""
        if self._other is not None and "text/html" not in (received.header("accept") or ""):
            return self._other.answer(received)
        known = (received.header("if-none-match") or "").split(",")
        is_known = any(tag.strip().removeprefix("W/") in (self._etag, "*") for tag in known)
        return self._unchanged if is_known else self._whole


def _policy(page: str) -> str:
    """Return the Content-Security-Policy: the page's own script and style run, and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "connect-src 'self'",
            "img-src data:",  # the icon of its tab
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hashes(page: str, element: str) -> str:
    """Return the hashes of every element of this name, as a Content-Security-Policy lists them."""
    contents = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(one.encode()).digest()).decode()}'" for one in contents)
