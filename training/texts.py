"""Raw text: folders and files of it, as documents of lines."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from training.errors import TrainingError, few

SUFFIXES = (".txt", ".text", ".md")
"""Of the files of a folder that are read; a file that is named is read whatever its name is."""


def text_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and those in the folders that are, by name.

    Raises:
        TrainingError: one is not there, or a folder has no text.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise TrainingError(f"{path} has no text: no file in it ends in {', '.join(SUFFIXES)}.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise TrainingError(f"{path} is not there.")
    return files


def read_lines(files: Sequence[Path], encoding: str) -> Iterator[str]:
    """Yield the lines of the files without the spaces around them, and an empty one after each file, where no document goes on.

    Raises:
        TrainingError: a file is in another encoding, or there is none of that name.
    """
    check_encoding(encoding)
    for file in files:
        number = 0
        try:
            with file.open(encoding=encoding) as lines:
                for number, line in enumerate(lines, 1):  # noqa: B007 - the message tells it
                    yield line.removeprefix("\ufeff").strip()
        except UnicodeError:
            raise TrainingError(
                f"{file} is not {encoding}, soon after line {number:,}: say what it is with --encoding (latin-1, utf-16), "
                "or mend it."
            ) from None
        yield ""


def check_encoding(name: str) -> None:
    """Check that there is an encoding of texts of this name.

    Raises:
        TrainingError: there is none.
    """
    try:
        "".encode(name)
    except LookupError:
        raise TrainingError(f"there is no encoding {name!r}; utf-8, latin-1 and cp1252 are some.") from None


def read_texts(files: Sequence[Path], encoding: str) -> list[str]:
    """Return the texts of the files: each line that is not empty is one.

    Raises:
        TrainingError: there is none, or a file is in another encoding.
    """
    if not (texts := [line for line in read_lines(files, encoding) if line]):
        raise TrainingError(f"{few(files)}: no line has a text.")
    return texts
