"""What an operator asks of a server, and what the test of it is told."""

from typing import Any

from tests.support import Reply, ServerProcess

KEY = "operators-only"
ADMIN = {"authorization": f"Bearer {KEY}"}
ONE = {"inputs": "the cat sat on the mat"}


def administer(server: ServerProcess, action: str, name: str = "a") -> Reply:
    return server.ask("POST", f"/admin/models/{name}/{action}", headers=ADMIN)


def states(server: ServerProcess) -> dict[str, Any]:
    return {one["name"]: one for one in server.ask("GET", "/admin/models", headers=ADMIN).json["models"]}


def labels(server: ServerProcess) -> set[str]:
    """The order of the labels, as each of many connections is told it: every front end takes some."""
    told = set()
    for _ in range(8):
        cards = {card["name"]: card for card in server.ask("GET", "/v1/models").json["models"]}
        told.add(",".join(cards["a"]["labels"]))
    return told
