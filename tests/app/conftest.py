"""A bundle of each of two tasks, and its runner, for what happens when a model is loaded."""

import pytest

from app.bundle.files import Bundle, load_bundle
from app.runtime.runner import OrtRunner
from tests.conftest import BundleOf


@pytest.fixture(scope="module", params=["bert-single-label", "roberta-fill-mask", "bert-entities", "bert-embed"])
def bundle(request: pytest.FixtureRequest, bundle_of: BundleOf) -> Bundle:
    return load_bundle(bundle_of(request.param))


@pytest.fixture(scope="module")
def runner(bundle: Bundle) -> OrtRunner:
    return OrtRunner(bundle, bundle.manifest.variants[0], threads=1)
