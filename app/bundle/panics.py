"""Failures of Rust code, which the `tokenizers` library raises as no `Exception`, so that nothing would handle them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Raise a panic of Rust code within the block as a `RuntimeError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # which cannot be imported
            raise RuntimeError(str(error)) from error
        raise
