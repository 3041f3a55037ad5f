"""The sentences that accuracy is measured on: read from the source package, and split as they were for the demo checkpoint."""

import io
import tarfile
from pathlib import Path

from benchmarks.labelled import split

MOVIES = [f"{i}\t{rating}\tFilm {i}\n" for i, rating in enumerate([1.5, -2.0, 0.3, -0.4] * 10)]


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_sentences_of_clear_sentiment_are_split_by_whether_they_may_be_trained_on(tmp_path: Path) -> None:
    folder = "hutto_ICWSM_2014"
    files = {
        "movieReviewSnippets": "".join(MOVIES),
        "amazonReviewSnippets": "1_1\t-0.9\tIt broke, caf\xe9\r\n1_2\t0.1\tneither\n",
        "tweets": "",
        "nytEditorialSnippets": "1\t0.4\tNews\n",
    }
    sentences = packed({f"{folder}/{name}_GroundTruth.txt": text.encode("latin-1") for name, text in files.items()})
    (tmp_path / "labelled").mkdir()
    package = packed({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": sentences})
    (tmp_path / "labelled" / "vaderSentiment-3.3.2.tar.gz").write_bytes(package)

    train, test = split(tmp_path)
    assert test[-1] == ("News", True, "newspaper")
    seen = [*train, *test[:-1]]
    assert len(test) == 5  # every tenth of 31, and the newspaper's
    assert len({sentence.text for sentence in seen}) == 31
    assert ("It broke, caf\xe9", False, "product") in seen
    assert {sentence.is_positive for sentence in seen if sentence.source == "movie"} == {True, False}
