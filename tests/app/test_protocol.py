"""An offer of another protocol is hidden from the parser, and nothing else of what callers send is touched."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol import _IGNORED, _OFFER

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\n%s\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
def test_an_offer_is_hidden(name: bytes) -> None:
    sent = HEAD % (name + b": h2c")
    hidden = _OFFER.sub(_IGNORED, sent)
    assert len(hidden) == len(sent)
    assert not re.search(rb"\nupgrade", hidden, re.IGNORECASE)
    assert hidden.endswith(b": h2c\r\nContent-Length: 2\r\n\r\n{}")


@given(st.text().map(lambda text: text.encode()))
def test_a_json_text_is_left_as_it_is(text: bytes) -> None:
    body = json.dumps({"inputs": text.decode() + "\r\nUpgrade: h2c"}).encode()
    assert _OFFER.sub(_IGNORED, body) == body


@pytest.mark.parametrize("header", [b"Upgrade-Insecure-Requests: 1", b"X-Upgrade: h2c", b"Connection: Upgrade"])
def test_other_headers_are_left_as_they_are(header: bytes) -> None:
    assert _OFFER.sub(_IGNORED, HEAD % header) == HEAD % header
