"""The bundles that this process does not serve because they cannot be loaded, where it may serve the others."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.errors import BundleError
from app.settings import Settings

log = logging.getLogger(__name__)


class BadBundles:
    """Collects them."""

    def __init__(self, *, skipped_as: str | None = None, may_be_all: bool = False) -> None:
        """Collect none yet.

        Args:
            skipped_as: Why bad ones are skipped, for the log; None if they are not.
            may_be_all: Whether nothing may be left to serve.
        """
        self._skipped_as = skipped_as
        self._may_be_all = may_be_all
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
            if self._skipped_as is None:
                raise
            self.names.append(name)
            log.error("model %s is not served, %s: %s", name, self._skipped_as, error)  # noqa: TRY400

    def refuse_none(self, served: object) -> None:
        """Pass if something is left to serve, or nothing may be.

        Raises:
            BundleError: nothing is.
        """
        if self.names and not served and not self._may_be_all:
            raise BundleError(f"None of the bundles can be served: {', '.join(self.names)}. The errors above say why.")


NONE_SKIPPED: Final = BadBundles()
"""The default: a bad bundle ends the start."""


def bad_bundles(settings: Settings, *, is_successor: bool = False) -> BadBundles:
    """Return what collects those of a start, or of an engine that takes the place of one that served.

    A bundle may be bad then as it is just being copied, and the others are served meanwhile.
    """
    why = "as BERT_SKIP_BAD_BUNDLES is on" if settings.skip_bad_bundles else None
    if why is None and is_successor:
        why = "until its bundle is right and is loaded"
    return BadBundles(skipped_as=why, may_be_all=settings.waits_for_models)
