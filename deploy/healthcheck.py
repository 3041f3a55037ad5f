# noqa: INP001 - scripts, not a package: each is run alone
"""Exit with 0 if the server in this container is ready, else with 1.

Run by the image's HEALTHCHECK with `python -I -S`: the standard library only, and as little of it as will do.
"""

import http.client
import os
import sys

EVERY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here
"""Where a server answers that listens on every interface."""


def is_ready(host: str, port: int) -> bool:
    """Ask the server of an address of this machine whether it takes requests."""
    connection = http.client.HTTPConnection(EVERY.get(host, host), port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    port = os.environ.get("BERT_PORT", "")
    # Of a Kubernetes Service named bert, the variable has the address, which the server ignores.
    sys.exit(0 if is_ready(os.environ.get("BERT_HOST", ""), int(port) if port.isdigit() else 8000) else 1)
