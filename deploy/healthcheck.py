# noqa: INP001 - scripts, not a package: each is run alone
"""Exit with 0 if the server in this container is ready, else with 1.

Run by the image's HEALTHCHECK with `python -I -S`: the standard library only, and as little of it as will do.
"""

import http.client
import os
import sys

EVERY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1"}  # noqa: S104 - nothing listens here
"""Where a server answers that listens on every interface."""


def address_of(hosts: str) -> str:
    """Return one of the addresses where a server answers that listens on these."""
    first, *others = hosts.split(",")
    if first == "::":  # beside others it is not for IPv4
        return "::1" if others else "127.0.0.1"
    return EVERY.get(first, first)


def is_ready(host: str, port: int) -> bool:
    """Ask the server of an address of this machine whether it takes requests."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    # Of a Kubernetes Service of that name, such a variable has the address, which the server ignores.
    port = next(
        (one for one in map(os.environ.get, ("BERT_METRICS_PORT", "BERT_PORT")) if one and one.isdigit()), "8000"
    )
    sys.exit(0 if is_ready(address_of(os.environ.get("BERT_HOST", "")), int(port)) else 1)
