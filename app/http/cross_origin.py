"""Which pages of other origins may read answers in a browser (CORS)."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp


def for_origins(application: ASGIApp, origins: str) -> ASGIApp:
    """Return an application that answers preflights, and says in each answer which pages may read it.

    Cookies stay out, as nothing here reads them; an API key is sent by the page itself. That is why all headers may be read, too.

    Args:
        application: Answers everything else.
        origins: Origins with commas between, or `*` for all.
    """
    return CORSMiddleware(
        application,
        allow_origins=origins.split(","),
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        expose_headers=("*",),
    )
