"""The routes of every dialect, as a server without models has them."""

from collections.abc import Sequence

from app.http.api import Limits, Route, Served
from app.http.dialects import DIALECTS
from app.http.readiness import Readiness
from app.tasks.catalog import Catalog


def routes_by_dialect() -> dict[str, Sequence[Route]]:
    """Return the routes of each dialect, by its name."""
    served = Served(Catalog([]), lambda _: None, Readiness(), Limits(1, 1, 1.0, None))
    return {name: dialect(served).routes for name, dialect in DIALECTS.items()}
