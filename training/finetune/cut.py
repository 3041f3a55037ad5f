"""Texts that are longer than what a model takes."""

from collections.abc import Sequence

from training.errors import share, tell


def tell_cut(lengths: Sequence[int], max_length: int, most: int) -> None:
    """Print how many texts are cut, and what length would cut none.

    Args:
        lengths: Tokens of each text.
        max_length: The tokens that are kept.
        most: That the checkpoint takes.
    """
    if cut := sum(length > max_length for length in lengths):
        longest = max(lengths)
        remedy = f"; --max-length {longest} cuts none" if longest <= most else ""
        tell(f"{share(cut, len(lengths))} texts have more than {max_length} tokens and lose their end{remedy}.")
