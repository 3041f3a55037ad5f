"""The bundles that this process does not serve because they cannot be loaded, where the settings let it serve the others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.errors import BundleError

log = logging.getLogger(__name__)


class BadBundles:
    """Collects them."""

    def __init__(self, *, are_skipped: bool) -> None:
        self._are_skipped = are_skipped
        self.names: list[str] = []

    @contextmanager
    def skipping(self, name: str) -> Iterator[None]:
        """Go on after a block that fails for the bundle of this name, if bad ones are skipped.

        Raises:
            BundleError: it failed, and they are not.
        """
        try:
            yield
        except BundleError as error:
            if not self._are_skipped:
                raise
            self.names.append(name)
            log.error("model %s is not served, as BERT_SKIP_BAD_BUNDLES is on: %s", name, error)  # noqa: TRY400

    def refuse_none(self, served: object) -> None:
        """Pass if something is left to serve.

        Raises:
            BundleError: nothing is.
        """
        if self.names and not served:
            raise BundleError(f"None of the bundles can be served: {', '.join(self.names)}. The errors above say why.")


NONE_SKIPPED: Final = BadBundles(are_skipped=False)
"""The default: a bad bundle ends the start."""
