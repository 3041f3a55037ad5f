"""The record of one inference request: what metrics, access log and trace report about it."""

from dataclasses import dataclass
from typing import Final

CLIENT_GONE: Final = 499
"""The status if the caller closed the connection before its answer, as in nginx; it is never sent."""


@dataclass(slots=True)
class RequestRecord:
    """One request. The endpoint fills it in on the way, and hands it over when the answer has been sent."""

    request_id: str
    api: str
    """The API that the request was made in."""
    task: str
    """`none` until a request of a dialect has been read."""
    client: str | None = None
    """The caller's address; None if neither the log nor a trace asks for it."""
    certificate: str | None = None
    """Who the caller's TLS certificate names; None without one."""
    caller: str | None = None
    """The name of whose key it was; None without names."""
    trace_id: str | None = None
    """None without tracing."""
    is_sampled: bool = False
    """Whether the trace is sent to the collector."""
    model: str | None = None
    """None until the request has named a model that exists."""
    changes: str | None = None
    """The model that an operator's request loads or unloads: its time is none of the model's answers."""
    bundle: str | None = None
    """The first digits of the identity of that model's bundle."""
    tokenizing_at: float | None = None
    """When tokenization began (monotonic clock); None if it never ended."""
    tokenized_at: float = 0.0
    sequences: int = 0
    tokens: int = 0
    characters: int = 0
    """Those of the inputs; stays 0 in an API that does not report them."""
    truncated: int = 0
    """The number of inputs that were cut."""
    status: int = 200
    error_type: str | None = None
    """None if the request succeeded."""
    duration_s: float = 0.0
    """From the request's last byte to its answer: the time that a caller takes to send says nothing of this service."""
