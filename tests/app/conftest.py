"""A bundle of each of four tasks, and its runner, for what happens when a model is loaded; logs that stay as they were."""

import logging
from collections.abc import Iterator

import pytest

from app.bundle.files import Bundle, load_bundle
from app.runtime.runner import OrtRunner
from tests.conftest import BundleOf


@pytest.fixture(scope="module", params=["bert-single-label", "roberta-fill-mask", "bert-entities", "bert-embed"])
def bundle(request: pytest.FixtureRequest, bundle_of: BundleOf) -> Bundle:
    return load_bundle(bundle_of(request.param))


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> OrtRunner:
    return OrtRunner(bundle, bundle.manifest.variants[0], threads=[1])


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Take back how a test sets up the log."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {one: one.level for one in (root, *map(logging.getLogger, root.manager.loggerDict))}
    yield
    root.handlers[:] = handlers
    for one in map(logging.getLogger, root.manager.loggerDict):
        one.setLevel(levels.get(one, logging.NOTSET))
    root.setLevel(levels[root])
