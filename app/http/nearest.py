"""Finds the route that was probably meant by a path that there is none for."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

_ALIKE: Final = 0.75
"""The similarity, at most 1, above which one path is the other misspelt."""
_LONGEST: Final = 100
"""The longest path that is compared, in characters: the time for that grows with its square."""


class Nearest:
    """Compares paths with the routes of this server."""

    def __init__(self, routes: Iterable[str]) -> None:
        """Take the paths; a part of a path in braces is variable."""
        self._routes: Final = list(routes)
        self.to: Final = lru_cache(1024)(self._to)

    def _to(self, path: str) -> str | None:
        """Return the route that is most like a path, if one is. Nothing of the path is in it."""
        if len(path) > _LONGEST:
            return None
        parts = path.lower().rstrip("/").split("/")
        filled = {"/".join(_filled(route.split("/"), parts)): route for route in self._routes}
        found = get_close_matches("/".join(parts), filled, n=1, cutoff=_ALIKE)
        return filled[found[0]] if found else None


def _filled(route: list[str], parts: list[str]) -> list[str]:
    """Return the parts of a route with its variable ones taken from a path of as many parts."""
    if len(route) != len(parts):
        return route
    return [
        given if part.startswith("{") and part.endswith("}") else part for part, given in zip(route, parts, strict=True)
    ]
