"""Chromium, one for a module, and a server with a model for each task."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import ModelsOf
from tests.e2e.conftest import device as device  # noqa: PLC0414 - a fixture here, too
from tests.page.browser import Visit, find_chromium, running_chromium, watch
from tests.support import HAPPEN_WITHIN_S, ServerProcess, serving

MODELS = {
    "sentiment": "bert-single-label",
    "stars": "bert-regression",
    "toxicity": "xlm-roberta-multi-label",
    "masked": "bert-fill-mask",
    "entailment": "bert-nli",
    "names": "bert-entities",
    "questions": "bert-answer",
    "sequels": "bert-next-sentence",
    "vectors": "bert-embed",
    "ranker": "roberta-rerank",
}


@pytest.fixture(scope="session")
def server(models_of: ModelsOf) -> Iterator[ServerProcess]:
    """It is at `/`, as for callers of its port or of a proxy that removes a path, and at `/bert`."""
    find_chromium()  # or it is for nothing
    with serving(models_of(MODELS), "--threads", "1", "--root-path", "/bert") as server:
        yield server
        assert server.stop() == 0, server.log


# Not for the session: while it runs, no other test on this thread can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Open pages; in the end, each has been silent and has asked nobody but its server."""
    opened: list[tuple[Page, list[str]]] = []

    def visit(url: str, **context: Any) -> Page:
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(1000 * HAPPEN_WITHIN_S)
        opened.append((page, watch(page, url)))
        page.goto(url)
        return page

    yield visit
    for page, faults in opened:
        page.context.close()
        assert not faults
