"""The `tokenizers` library, which cuts texts itself: what ours are held to."""

import tokenizers

from app.bundle.files import Bundle
from app.text.pairs import Strategy
from app.text.tokenizer import Direction


def cutting(
    bundle: Bundle, direction: Direction, stride: int = 0, strategy: Strategy = "longest_first"
) -> tokenizers.Tokenizer:
    """Return the bundle's tokenizer as one that cuts to the model's length."""
    tokenizer = whole(bundle)
    tokenizer.enable_truncation(bundle.manifest.max_length, stride=stride, direction=direction, strategy=strategy)
    return tokenizer


def whole(bundle: Bundle) -> tokenizers.Tokenizer:
    """Return the bundle's tokenizer as one that does not cut."""
    tokenizer = tokenizers.Tokenizer.from_file(str(bundle.folder / bundle.manifest.tokenizer.file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
