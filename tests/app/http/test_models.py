"""What a server tells of where a model came from."""

import pytest

from app.bundle.manifest import Source
from app.http.models import public_source


@pytest.mark.parametrize(
    ("checkpoint", "revision", "told"),
    [
        ("/home/ada/customer-x/reviews", None, "reviews"),
        ("checkpoints/reviews/", None, "reviews"),
        ("..", None, ".."),
        ("organization/reviews", "0" * 40, "organization/reviews"),
    ],
)
def test_a_checkpoint_is_shown_without_its_path(checkpoint: str, revision: str | None, told: str) -> None:
    source = Source(checkpoint=checkpoint, revision=revision, sha256="ab")
    assert public_source(source) == Source(checkpoint=told, revision=revision, sha256="ab")
