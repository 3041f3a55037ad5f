"""Sentences with human ratings: those of vaderSentiment's source package, which is read and not installed.

Movie and product reviews and tweets are split by the tenth: no tenth sentence is trained on. No sentence of the newspaper is.
"""

import io
import random
import tarfile
from pathlib import Path
from typing import Final, NamedTuple

TRAINED_ON: Final = {"movie": "movieReviewSnippets", "product": "amazonReviewSnippets", "tweet": "tweets"}
UNSEEN: Final = {"newspaper": "nytEditorialSnippets"}
LEAST_RATING: Final = 0.4
"""Of -4 to 4, in size: what is rated lower has no clear sentiment."""


class Sentence(NamedTuple):
    """A text, whether it is positive, and the kind of text that it is from."""

    text: str
    is_positive: bool
    source: str


def split(package: Path) -> tuple[list[Sentence], list[Sentence]]:
    """Return what a checkpoint may be trained on, and what it is evaluated on.

    Args:
        package: The archive of vaderSentiment's source package.
    """
    archive = _archive(package)
    seen = _read(archive, TRAINED_ON)
    random.Random(7).shuffle(seen)  # noqa: S311 - no secret
    train = [sentence for i, sentence in enumerate(seen) if i % 10]
    return train, [*seen[::10], *_read(archive, UNSEEN)]


def _archive(package: Path) -> bytes:
    """Return the archive of sentences that is in the source package."""
    with tarfile.open(package) as files:
        [name] = (name for name in files.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        return content(files, name)


def _read(archive: bytes, sources: dict[str, str]) -> list[Sentence]:
    """Return the sentences of clear sentiment, sorted."""
    sentences = set()
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for source, file in sources.items():
            for line in content(files, f"hutto_ICWSM_2014/{file}_GroundTruth.txt").decode("latin-1").split("\n"):
                fields = line.removesuffix("\r").split("\t")
                if len(fields) > 2 and abs(float(fields[1])) >= LEAST_RATING:
                    sentences.add(Sentence(fields[2], float(fields[1]) > 0, source))
    return sorted(sentences)


def content(archive: tarfile.TarFile, name: str | tarfile.TarInfo) -> bytes:
    """Return what a file of an archive holds."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
