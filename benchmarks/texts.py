"""The sentences that are sent. `data/README.md` says where they come from."""

import json
from pathlib import Path
from typing import Any, Final, Literal

DATA: Final = Path(__file__).parent / "data"
SHORT_TEXT: Final = "I love this product"
"""The text for an idle server."""

TextSet = Literal["reviews", "mix"]
"""`reviews` are of 5 to 100 tokens, 27 on average; `mix` of 5 to 379, as many short as long by the logarithm."""


def read_texts(name: TextSet) -> list[str]:
    """Return the texts of a set, in an order that is the same for every system."""
    return (DATA / f"{name}.txt").read_text(encoding="ascii").splitlines()


def http_request(path: str, document: Any) -> bytes:  # noqa: ANN401 - whatever JSON can say
    """Return a POST as the generator sends it."""
    body = json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body
