"""What the `tokenizers` library raises where its Rust code fails: no `Exception`, so that nothing would handle it."""


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic of Rust code. Its class cannot be imported."""
    return type(error).__name__ == "PanicException"
